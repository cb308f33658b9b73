import { useEffect, useEffectEvent } from "react";
import type { KeyBinding } from "./keys";
import { useServices } from "./services";

/** Binds keys while the component is there. Which keys there are must not change; what they do is always the newest. */
export function useKeys(bindings: readonly KeyBinding[]): void {
  const { keys } = useServices();
  const run = useEffectEvent((name: string) => { bindings.find((binding) => binding.keys === name)?.run(); });
  const names = JSON.stringify(bindings.map((binding) => [binding.keys, binding.does]));
  useEffect(() => {
    const bound = (JSON.parse(names) as [string, string][]).map(([name, does]) => ({ keys: name, does, run: () => { run(name); } }));
    return keys.bind(bound);
  }, [keys, names]);
}
