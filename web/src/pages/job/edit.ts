import type { operations } from "../../api/schema";
import { priorities, type Job } from "../../api/types";

export type EditedJob = operations["editJob"]["requestBody"]["content"]["application/json"];

/** What is in the fields of the form. */
export interface Draft {
  readonly priority: string;
  readonly retries: string;
  readonly delay: string;
  readonly timeout: string;
  readonly tags: string;
  readonly metadata: string;
}

export function draftOf(job: Job): Draft {
  return {
    priority: job.priority, retries: String(job.max_retries), delay: "", timeout: job.timeout ?? "", tags: job.tags.join(", "),
    metadata: JSON.stringify(job.metadata, undefined, 2),
  };
}

/** What cannot be sent, by field. What can be sent and is wrong the server says. */
export function faultsOf(draft: Draft): Partial<Record<keyof Draft, string>> {
  return {
    ...(/^\d+$/.test(draft.retries.trim()) ? {} : { retries: "A number, please." }),
    ...(metadataOf(draft) ? {} : { metadata: "An object whose members are texts, please." }),
  };
}

/** What differs from the job: only that is sent, so that an edit leaves alone what it is not about. */
export function changesOf(job: Job, draft: Draft): EditedJob {
  const before = draftOf(job);
  const is = (name: keyof Draft): boolean => draft[name].trim() !== before[name];
  const priority = priorities.find((one) => one === draft.priority);
  const metadata = metadataOf(draft);
  const isMetadata = metadata !== undefined && JSON.stringify(metadata) !== JSON.stringify(job.metadata);
  return {
    ...(is("priority") && priority ? { priority } : {}),
    ...(is("retries") && /^\d+$/.test(draft.retries.trim()) ? { max_retries: Number(draft.retries) } : {}),
    ...(is("delay") ? { delay: draft.delay.trim() } : {}),
    ...(is("timeout") && draft.timeout.trim() !== "" ? { timeout: draft.timeout.trim() } : {}),
    ...(is("tags") ? { tags: tagsOf(draft.tags) } : {}),
    ...(isMetadata ? { metadata } : {}),
  };
}

/** Reads tags that were typed with commas between them. */
export function tagsOf(text: string): string[] {
  return text.split(",").map((tag) => tag.trim()).filter((tag) => tag !== "");
}

function metadataOf({ metadata }: Draft): Record<string, string> | undefined {
  try {
    const value: unknown = JSON.parse(metadata);
    const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
    return isObject && Object.values(value).every((member) => typeof member === "string") ? value as Record<string, string> : undefined;
  } catch {
    return undefined;
  }
}
