import type { AnswerOf } from "../../api/client";
import type { Webhook } from "../../api/types";
import type { IconName } from "../../components/Icon";
import type { MarkTone } from "../../components/Mark";
import { listOf } from "../consumers/consumers";

export const filterFields = { types: "Event types", queues: "Queues", kinds: "Kinds", tags: "Tags" } as const;
export type FilterField = keyof typeof filterFields;

export interface WebhookForm {
  readonly url: string;
  /** Values with commas or spaces between; empty: all. */
  readonly filter: Readonly<Record<FilterField, string>>;
  readonly hasPayload: boolean;
}

export const emptyForm: WebhookForm = { url: "", filter: { types: "", queues: "", kinds: "", tags: "" }, hasPayload: false };

export function formOf({ url, filter, include_payload: hasPayload }: Pick<Webhook, "url" | "filter" | "include_payload">): WebhookForm {
  const text = (name: FilterField): string => listOf(filter?.[name]).join(", ");
  return { url: url ?? "", filter: { types: text("types"), queues: text("queues"), kinds: text("kinds"), tags: text("tags") }, hasPayload };
}

/** What the server is told. Fields of the filter that the form does not show stay as they are. */
export function bodyOf(form: WebhookForm, before?: Webhook["filter"]): { url: string; filter: Record<string, string[]>; include_payload: boolean } {
  const filter: Record<string, string[]> = {};
  const ids = listOf(before?.job_ids);
  if (ids.length > 0) {
    filter["job_ids"] = ids;
  }
  for (const [name, text] of Object.entries(form.filter)) {
    const values = text.split(/[\s,]+/).filter((value) => value !== "");
    if (values.length > 0) {
      filter[name] = values;
    }
  }
  return { url: form.url.trim(), filter, include_payload: form.hasPayload };
}

const whyStopped: Readonly<Record<NonNullable<Webhook["disabled_reason"]>, string>> = {
  disabled: "off", paused: "paused", gone: "the receiver said 410", failing: "failed for days", cursor_expired: "its events are gone", epoch_changed: "of another history",
};

export interface WebhookLook {
  readonly tone: MarkTone;
  readonly icon: IconName;
  readonly word: string;
}

/** How a webhook does, in a word. */
export function lookOf(webhook: Pick<Webhook, "enabled" | "disabled_reason" | "failing_since" | "parked" | "replay">): WebhookLook {
  if (!webhook.enabled) {
    const isWanted = webhook.disabled_reason === "paused" || webhook.disabled_reason === "disabled";
    return { tone: isWanted ? "warn" : "bad", icon: isWanted ? "pause" : "cross", word: webhook.disabled_reason ? whyStopped[webhook.disabled_reason] ?? webhook.disabled_reason : "off" };
  }
  if (webhook.failing_since !== null || webhook.parked > 0) {
    return { tone: "warn", icon: "failures", word: "failing" };
  }
  return webhook.replay ? { tone: "busy", icon: "repeat", word: "replaying" } : { tone: "good", icon: "check", word: "well" };
}

/** What a test has shown, in a sentence. */
export function testText({ delivered, status, took_ms: tookMs, detail }: AnswerOf<"post", "/admin/webhooks/{id}/test">): string {
  const answer = status === null ? "no answer" : `answered ${status}`;
  return `${delivered ? "Delivered" : "Not delivered"}: ${answer} in ${tookMs} ms${detail ? `, ${detail}` : ""}.`;
}
