// What the rows say about names, in the shape answers are looked up in: by network, then by name or address.

import { parseAddress } from '../../lib/cidr.js';
import type { NameRow, NetworkRow, PointerRow, Row } from '../../model/proto/skein_pb.js';
import { labelsOf } from './wire.js';

export interface DnsNetwork {
  readonly row: NetworkRow | undefined;
  /** Labels of the network's name; undefined when no question can hold it. */
  readonly labels: readonly string[] | undefined;
  readonly names: ReadonlyMap<string, NameRow>;
  readonly pointers: ReadonlyMap<number, PointerRow>;
}

/** Networks by VNI. */
export type DnsView = ReadonlyMap<number, DnsNetwork>;

/** Labels may hold any byte: the length before each keeps two lists of labels apart. */
export function nameKey(labels: readonly string[]): string {
  return labels.map((label) => String.fromCharCode(label.length) + label).join('');
}

export function dnsView(rows: Iterable<Row>): DnsView {
  const view = new Map<number, { row: NetworkRow | undefined; labels: readonly string[] | undefined;
    names: Map<string, NameRow>; pointers: Map<number, PointerRow> }>();
  const of = (vni: number) => {
    const found = view.get(vni) ?? { row: undefined, labels: undefined, names: new Map(), pointers: new Map() };
    view.set(vni, found);
    return found;
  };
  for (const { row } of rows) {
    if (row.case === 'network') {
      const network = of(row.value.vni);
      network.row = row.value;
      network.labels = labelsOf(row.value.name);
    } else if (row.case === 'name') {
      const labels = labelsOf(row.value.name);
      if (labels !== undefined) of(row.value.vni).names.set(nameKey(labels), row.value);
    } else if (row.case === 'pointer') {
      const address = parseAddress(row.value.address);
      if (address !== undefined) of(row.value.vni).pointers.set(address, row.value);
    }
  }
  return view;
}
