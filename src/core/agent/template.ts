// Templates in a task's hostname, environment and mounts: {{.Service.Name}}, {{.Node.Hostname}}, {{.Task.Slot}}, ...
// SwarmKit expands them on the worker; a missing key is an error that rejects the task.

import { fail, ok, type Result } from '../../lib/result.js';
import { pairValue } from '../../model/pairs.js';
import type { NodeDescription, Task } from '../../model/proto/swarmkit_pb.js';
import { taskName } from '../../model/task.js';

export interface TemplateNode {
  readonly id: string;
  readonly description: NodeDescription | undefined;
}

const EXPRESSION = /\{\{\s*(.+?)\s*\}\}/g;

export function expand(text: string, task: Task, node: TemplateNode): Result<string> {
  let problem: string | undefined;
  const expanded = text.replace(EXPRESSION, (_whole, expression: string) => {
    const value = valueOf(expression, task, node);
    if (value === undefined) problem ??= expression;
    return value ?? '';
  });
  return problem === undefined ? ok(expanded)
    : fail('invalid_argument', `expanding template failed: "${text}": can't evaluate "${problem}"`);
}

function valueOf(expression: string, task: Task, node: TemplateNode): string | undefined {
  const label = /^index\s+\.Service\.Labels\s+"([^"]+)"$/.exec(expression);
  if (label !== null) return pairValue(task.serviceAnnotations?.labels, label[1] as string) ?? '';
  const dotted = /^\.Service\.Labels\.(.+)$/.exec(expression);
  if (dotted !== null) return pairValue(task.serviceAnnotations?.labels, dotted[1] as string);
  switch (expression) {
    case '.Service.ID': return task.serviceId;
    case '.Service.Name': return task.serviceAnnotations?.name ?? '';
    case '.Node.ID': return node.id;
    case '.Node.Hostname': return node.description?.hostname ?? '';
    case '.Node.Platform.OS': return node.description?.platform?.os ?? '';
    case '.Node.Platform.Architecture': return node.description?.platform?.architecture ?? '';
    case '.Task.ID': return task.id;
    case '.Task.Name': return taskName(task);
    case '.Task.Slot': return task.slot > 0n ? task.slot.toString() : task.nodeId;
    default: return undefined;
  }
}
