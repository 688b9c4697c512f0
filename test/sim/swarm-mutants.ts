// Deliberate bugs of the control plane, to see that the simulator of the whole swarm has teeth: changes of the built text of
// the core, each of a piece of code that must be there exactly once; and switches of the shell (SwarmBug).

import { mutated, type Mutant } from './mutated.js';
import { CORE, type Core, type SwarmBug } from './swarm.js';

export const SWARM_MUTANTS: Readonly<Record<string, Mutant>> = {
  'an address is given out again before its release is acknowledged': {
    file: 'allocator/allocator', from: 'if (isFree(pass.input, task))', to: 'if (stateOf(task) > TaskState.RUNNING)',
  },
  'a slot counts as free until its task runs': {
    file: 'orchestrator/slots', from: 'if (place.runnable.length > 0)', to: 'if (place.runnable.some((task) => stateOf(task) === TaskState.RUNNING))',
  },
  'tasks of a lost node are not replaced': {
    file: 'orchestrator/restart', from: '|| node.status?.state === NodeStatus_State.DOWN\n', to: '\n',
  },
  'a drained node keeps its tasks': {
    file: 'orchestrator/restart', from: '|| node.spec?.availability === NodeSpec_Availability.DRAIN', to: '',
  },
  'a task starts before the one it replaces has stopped': {
    file: 'orchestrator/restart', from: 'if (waitMs > 0)', to: 'if (false)',
  },
  'statuses go backwards': {
    file: 'dispatcher/nodes', from: 'if (status.state < known || known >= TaskState.ORPHANED)', to: 'if (known >= TaskState.ORPHANED)',
  },
  'a drain is not waited for': {
    file: 'orchestrator/drain', from: 'const done = acknowledged(soft, drain.revision)', to: 'const done = true',
  },
  'the VXLAN id of a removed network is given out while tasks of it run': {
    file: 'allocator/allocator', from: '...lingering(pass)].map(vniOf)', to: '].map(vniOf)',
  },
  'a published port is given twice': {
    file: 'allocator/allocator', from: 'pass.conflicts.set(service.id, conflict);\n        return;', to: '',
  },
  'a virtual address is given to a task': {
    file: 'allocator/allocator', from: 'take(vip.networkId, vip.addr);', to: 'void vip;',
  },
  'a host-mode port is taken for free': {
    file: 'scheduler/filters', from: '!candidate.hasPort(port)', to: 'true',
  },
  'secrets come without being asked for': {
    file: 'dispatcher/assignments', from: 'for (const { secretId } of task.spec.runtime.value.secrets) {',
    to: 'for (const { id: secretId } of view.list("secret")) {',
  },
  'secrets that no task needs any more stay': {
    file: 'dispatcher/assignments', from: 'if (!after.secrets.has(id))', to: 'if (false)',
  },
  'configs are not sent with their tasks': {
    file: 'dispatcher/assignments', from: "changes.push(update('config', config));", to: ';',
  },
  'silence while the leader stood still itself counts': {
    file: 'dispatcher/liveness', from: 'const lived = Math.min(step, stepMaxMs);', to: 'const lived = step;',
  },
  'a node is lost though its data plane answers': {
    file: 'dispatcher/liveness', from: 'const gap = life.signs === 0',
    to: "if (kind === 'plane') return { ...life, answers: life.answers + 1 };\n    const gap = life.signs === 0",
  },
  'a dead node is left to the slow rule': {
    file: 'dispatcher/liveness', from: 'return life.answers >= ANSWERS_MIN && nowMs', to: 'return false && nowMs',
  },
  'tasks of a removed service stay': {
    file: 'orchestrator/reaper', from: 'if (orphan && task.desiredState < TaskState.REMOVE)', to: 'if (false)',
  },
};

export const SWARM_SHELL_MUTANTS: Readonly<Record<SwarmBug, string>> = {
  'deposed-goes-on': 'a deposed leader goes on to propose what it decided',
  'acks-before-installed': 'rows are acknowledged before they are installed',
};

const FILES = [
  'agent/decide', 'allocator/allocator', 'dispatcher/assignments', 'dispatcher/liveness', 'dispatcher/nodes', 'network/rows', 'orchestrator/orchestrator', 'scheduler/scheduler', 'store/soft', 'store/store',
];

/** The core with one of the bugs. */
export async function mutantStages(name: string): Promise<Core> {
  const core: Record<string, unknown> = { ...CORE };
  for (const module of await mutated('', SWARM_MUTANTS, name, FILES) as readonly Record<string, unknown>[]) {
    for (const key of Object.keys(CORE)) if (module[key] !== undefined) core[key] = module[key];
  }
  return core as Core;
}
