import { Kbd, Modal, Table } from "@mantine/core";
import type { JSX } from "react";
import { useServices } from "./services";

/** The keys that work on this page. */
export function Help({ isOpen, onClose }: { isOpen: boolean; onClose: () => void }): JSX.Element {
  return (
    <Modal opened={isOpen} onClose={onClose} title="Keys" size="md" closeButtonProps={{ "aria-label": "Close" }}>
      {isOpen && <KeyTable />}
    </Modal>
  );
}

function KeyTable(): JSX.Element {
  const { keys } = useServices();
  const rows = [...keys.list().map((binding) => [binding.keys, binding.does] as const), ["Ctrl K", "Search and commands (Cmd K on a Mac)"] as const];
  return (
    <Table>
      <Table.Tbody>
        {rows.map(([name, does]) => (
          <Table.Tr key={name}>
            <Table.Td w={110}>{name.split(" ").map((key) => <Kbd key={key} mr={4}>{key}</Kbd>)}</Table.Td>
            <Table.Td>{does}</Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  );
}
