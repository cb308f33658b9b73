// The pages of the dashboard: routes, navigation, keys and palette are made out of this table. A page is a folder of its own,
// loaded when somebody goes there; its component is named ...Page, by which the check of budgets knows it.
import type { ComponentType } from "react";
import type { IconName } from "../components/Icon";

export interface Page {
  /** With `$name` for parts that vary. */
  readonly path: string;
  readonly title: string;
  /** Two keys that lead there; pages without are not in the navigation. */
  readonly keys?: string;
  readonly icon: IconName;
  readonly load: () => Promise<{ default: ComponentType }>;
}

export const pages: readonly Page[] = [
  {
    path: "/", title: "Overview", keys: "g o", icon: "overview",
    load: async () => ({ default: (await import("./overview/OverviewPage")).OverviewPage }),
  },
  {
    path: "/jobs", title: "Jobs", keys: "g j", icon: "jobs",
    load: async () => ({ default: (await import("./jobs/JobsPage")).JobsPage }),
  },
  {
    path: "/jobs/$id", title: "Job", icon: "jobs",
    load: async () => ({ default: (await import("./job/JobPage")).JobPage }),
  },
  {
    path: "/queues", title: "Queues", keys: "g q", icon: "queues",
    load: async () => ({ default: (await import("./queues/QueuesPage")).QueuesPage }),
  },
  {
    path: "/queues/$name", title: "Queue", icon: "queues",
    load: async () => ({ default: (await import("./queues/QueuePage")).QueuePage }),
  },
  {
    path: "/failures", title: "Failures", keys: "g f", icon: "failures",
    load: async () => ({ default: (await import("./failures/FailuresPage")).FailuresPage }),
  },
  {
    path: "/events", title: "Events", keys: "g e", icon: "events",
    load: async () => ({ default: (await import("./events/EventsPage")).EventsPage }),
  },
  {
    path: "/workers", title: "Workers", keys: "g w", icon: "workers",
    load: async () => ({ default: (await import("./workers/WorkersPage")).WorkersPage }),
  },
  {
    path: "/operations", title: "Operations", keys: "g b", icon: "repeat",
    load: async () => ({ default: (await import("./operations/OperationsPage")).OperationsPage }),
  },
  {
    path: "/consumers", title: "Consumers", keys: "g c", icon: "consumers",
    load: async () => ({ default: (await import("./consumers/ConsumersPage")).ConsumersPage }),
  },
  {
    path: "/webhooks", title: "Webhooks", keys: "g h", icon: "webhooks",
    load: async () => ({ default: (await import("./webhooks/WebhooksPage")).WebhooksPage }),
  },
  {
    path: "/webhooks/$id", title: "Webhook", icon: "webhooks",
    load: async () => ({ default: (await import("./webhooks/WebhookPage")).WebhookPage }),
  },
  {
    path: "/audit", title: "Audit", keys: "g a", icon: "audit",
    load: async () => ({ default: (await import("./audit/AuditPage")).AuditPage }),
  },
  {
    path: "/settings", title: "Settings", keys: "g s", icon: "settings",
    load: async () => ({ default: (await import("./settings/SettingsPage")).SettingsPage }),
  },
];
