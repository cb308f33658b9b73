import { Paper, Table } from "@mantine/core";
import type { JSX, ReactNode, Ref } from "react";
import classes from "./PlainTable.module.css";

/** A column by its heading; numbers stand at the right. */
export interface Column {
  readonly title: string;
  readonly isNumber?: boolean;
  /** For those who listen only: buttons need no heading to look at. */
  readonly isUnseen?: boolean;
}

interface PlainTableProps {
  label: string;
  columns: readonly Column[];
  /** Below that it scrolls, in pixels. */
  minWidth: number;
  ref?: Ref<HTMLDivElement>;
  children: ReactNode;
  onHold?: (isHeld: boolean) => void;
}

/** A table of few enough rows to draw them all. onHold says whether the pointer or the focus is in it. */
export function PlainTable({ label, columns, minWidth, ref, children, onHold }: PlainTableProps): JSX.Element {
  return (
    <Paper withBorder mb="md" ref={ref} onPointerEnter={() => { onHold?.(true); }} onPointerLeave={() => { onHold?.(false); }}
      onFocus={() => { onHold?.(true); }} onBlur={() => { onHold?.(false); }}>
      <Table.ScrollContainer minWidth={minWidth} type="native">
        <Table verticalSpacing={6} horizontalSpacing="xs" highlightOnHover aria-label={label} className={classes["table"] ?? ""}>
          <Table.Thead>
            <Table.Tr>
              {columns.map(({ title, isNumber, isUnseen }) => (
                <Table.Th key={title} scope="col" {...(isNumber ? { ta: "right" } : {})}>
                  {isUnseen ? <span className={classes["unseen"]}>{title}</span> : title}
                </Table.Th>
              ))}
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>{children}</Table.Tbody>
        </Table>
      </Table.ScrollContainer>
    </Paper>
  );
}

/** The cell of a name: as wide as it may be, and never broken. */
export function NameCell({ name, children }: { name: string; children: ReactNode }): JSX.Element {
  return <Table.Td className={classes["name"] ?? ""} title={name}>{children}</Table.Td>;
}

/** Numbers of a row, one cell each. */
export function NumberCells({ texts }: { texts: readonly string[] }): JSX.Element {
  return <>{texts.map((text, i) => <Table.Td key={i} ta="right">{text}</Table.Td>)}</>;
}
