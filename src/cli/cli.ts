// The `skein` command line. Expected failures print one line to stderr and exit 1; `--json` where a script would read.

import { Command, InvalidArgumentError } from 'commander';
import { AppFailure, unwrap } from '../lib/result.js';
import { AGENT_DEFAULTS, agentOptions, type AgentOptions } from '../daemon/options.js';
import { runAgent } from '../daemon/agent.js';
import { installDockerRuntime } from '../io/docker/wrapper.js';
import { labDown, labExec, labList, labUp, nodeInfo } from '../lab/lab.js';
import type { LabRequest } from '../lab/plan.js';
import { labNames } from '../lab/teardown.js';
import { backupCommand, restoreCommand } from './backup.js';
import { doctor } from './doctor.js';
import { demo } from './demo.js';

const LAB_DEFAULT = 'lab';
/** On two cores that are somebody else's too, the lower quartile of nine rounds was between 0.45 and 0.57 for one and the same build. */
const BENCH_ROUNDS = 25;

const UNLOCK_KEY = 'holds a locked swarm\'s unlock key (SWMKEY-1-...): the backup is checked with it';

function integer(text: string): number {
  if (!/^\d{1,4}$/.test(text)) throw new InvalidArgumentError('a whole number is needed');
  return Number(text);
}

function counts(text: string): number[] {
  const numbers = text.split(',').map(integer);
  if (numbers.some((number) => number < 3)) throw new InvalidArgumentError('there are three managers at least');
  return numbers;
}

/** 300, 300ms or 0.3s; below a second, so that what is compared runs at about the same time. */
function slice(text: string): number {
  const [, value, unit] = /^(\d+(?:\.\d+)?)(ms|s)?$/.exec(text) ?? [];
  const ms = Number(value) * (unit === 's' ? 1000 : 1);
  if (!(ms >= 50 && ms < 1000)) throw new InvalidArgumentError('at least 50ms and below 1s');
  return Math.round(ms);
}

function choice<T extends string>(...choices: T[]): (text: string) => T {
  return (text) => {
    if (!(choices as string[]).includes(text)) throw new InvalidArgumentError(`must be one of ${choices.join(', ')}`);
    return text as T;
  };
}

export async function runCli(args: readonly string[]): Promise<number> {
  let exitCode = 0;
  const program = new Command('skein').description('Swarm mode as a userspace networking layer').enablePositionalOptions();
  addAgent(program);
  addBackup(program);
  addLab(program, (code) => {
    exitCode = code;
  });
  program.command('doctor').description('what the kernel offers, and which engine and runtime will be used')
    .option('--json', 'for scripts', false)
    .option('--runtime <runtime>', 'auto, oci or docker', choice('auto', 'oci', 'docker'), 'auto')
    .option('--docker-socket <path>', 'the local Engine\'s socket', AGENT_DEFAULTS.dockerSocket)
    .action(async (options) => {
      exitCode = await doctor(options);
    });
  program.command('install').description('register the task runtime with this machine\'s Docker Engine, for --runtime docker')
    .option('--daemon-json <file>', 'configuration of the Engine', '/etc/docker/daemon.json')
    .option('--daemon-pidfile <file>', 'pid file of the Engine, which is told to reload', '/var/run/docker.pid')
    .action(async ({ daemonJson, daemonPidfile }: { daemonJson: string; daemonPidfile: string }) => {
      const { changed, wrapperFile } = await installDockerRuntime({ daemonJson, daemonPidFile: daemonPidfile });
      console.log(changed ? `runtime registered in ${daemonJson} (${wrapperFile}); the Engine was told to reload` : `runtime is registered in ${daemonJson} already`);
    });
  program.command('demo').description('a swarm of one manager and two workers that serves a port from every node')
    .option('--once', 'check everything, tear down, exit 1 if anything is wrong', false)
    .action(async (options: { once: boolean }) => {
      exitCode = await demo(options.once);
    });
  addBench(program, (code) => {
    exitCode = code;
  });
  try {
    await program.parseAsync([...args], { from: 'user' });
  } catch (error) {
    if (!(error instanceof AppFailure)) throw error;
    console.error(`skein: ${error.message}`);
    return 1;
  }
  return exitCode;
}

function addAgent(program: Command): void {
  program.command('agent').description('run this node\'s agent')
    .option('--config <file>', 'YAML or JSON file with the options below in camel case')
    .option('--hostname <name>', 'name shown by docker node ls')
    .option('--state-dir <path>', `default ${AGENT_DEFAULTS.stateDir}`)
    .option('--run-dir <path>', `default ${AGENT_DEFAULTS.runDir}`)
    .option('--socket <path>', `where the Docker API is served; default ${AGENT_DEFAULTS.socket}`)
    .option('--listen-addr <addr>', `default ${AGENT_DEFAULTS.listenAddr}`)
    .option('--advertise-addr <addr>', 'address or interface told to other nodes')
    .option('--data-path-addr <addr>', 'address or interface for VXLAN; default: the advertised address')
    .option('--engine <engine>', 'auto or userspace')
    .option('--runtime <runtime>', 'auto, oci or docker')
    .option('--docker-socket <path>', `the local Engine's socket; default ${AGENT_DEFAULTS.dockerSocket}`)
    .option('--gateway-bridge <cidr>', `default ${AGENT_DEFAULTS.gatewayBridge}`)
    .option('--dns <servers>', 'upstream DNS servers, comma-separated; default: those of /etc/resolv.conf')
    .option('--log-level <level>', `default ${AGENT_DEFAULTS.logLevel}`)
    .action(async ({ config, ...flags }: Partial<AgentOptions> & { config?: string }) => {
      unwrap(await runAgent(unwrap(await agentOptions(flags, config))));
    });
}

function addBackup(program: Command): void {
  program.command('backup').description('write a manager\'s swarm state to one file, while its agent runs or not')
    .requiredOption('--to <file>', 'where to; mode 0600')
    .option('--state-dir <path>', 'of the agent', AGENT_DEFAULTS.stateDir)
    .option('--force', 'replace a file that is there', false)
    .option('--unlock-key-file <file>', UNLOCK_KEY)
    .option('--json', 'for scripts', false)
    .action(backupCommand);
  program.command('restore').description('make a manager\'s state directory from a backup; its agent is started after')
    .requiredOption('--from <file>', 'made by skein backup')
    .option('--state-dir <path>', 'of the agent; without a swarm in it', AGENT_DEFAULTS.stateDir)
    .option('--unlock-key-file <file>', UNLOCK_KEY)
    .option('--json', 'for scripts', false)
    .action(restoreCommand);
}

interface ControlBenchRequest {
  readonly slice: number;
  readonly rounds: number;
  readonly failovers: number;
  readonly agents: readonly number[];
  readonly peer: boolean;
  readonly docker: boolean;
  readonly dockerRounds: number;
  readonly json: boolean;
}

function addBench(program: Command, exit: (code: number) => void): void {
  const bench = program.command('bench').description('measure beside peers, in one run');
  bench.command('overlay')
    .description('task to task across two nodes, beside host veth and kernel VXLAN')
    .option('--rounds <n>', 'rounds', integer, BENCH_ROUNDS)
    .option('--slice <duration>', 'length of one measurement', slice, 300)
    .option('--wire', 'cut every packet to the MTU on the uplinks', false)
    .option('--json', 'for scripts', false)
    .action(async ({ slice: sliceMs, rounds, wire, json }: { slice: number; rounds: number; wire: boolean; json: boolean }) => {
      if (rounds < 1) throw new InvalidArgumentError('--rounds must be at least 1');
      exit(await (await import('../../bench/overlay.js')).benchOverlay({ sliceMs, rounds, wire, json }));
    });
  bench.command('control')
    .description('writes, loss of the leader, endpoint changes of three managers, beside etcd and Docker Swarm')
    .option('--rounds <n>', 'rounds', integer, 9)
    .option('--slice <duration>', 'length of one measurement', slice, 300)
    .option('--failovers <n>', 'ends of the leader, of each kind', integer, 3)
    .option('--agents <list>', 'nodes when an endpoint changes, e.g. 3,30,100', counts, [3, 30, 100])
    .option('--docker-rounds <n>', 'ends of Docker\'s leader, of each kind, and its endpoint changes: 20 s each', integer, 3)
    .option('--no-docker', 'beside etcd alone')
    .option('--no-peer', 'without etcd and Docker')
    .option('--json', 'for scripts', false)
    .action(async ({ slice: sliceMs, ...options }: ControlBenchRequest) => {
      if (options.rounds < 1) throw new InvalidArgumentError('--rounds must be at least 1');
      exit(await (await import('../../bench/control.js')).benchControl({ sliceMs, ...options }));
    });
}

function addLab(program: Command, exit: (code: number) => void): void {
  const lab = program.command('lab').description('a whole swarm on this machine, one network namespace a node').enablePositionalOptions();
  lab.command('up').description('make a lab and form its swarm')
    .option('--managers <n>', 'managers', integer, 1)
    .option('--workers <n>', 'workers', integer, 2)
    .option('--name <name>', 'name of the lab', LAB_DEFAULT)
    .option('--engine <engine>', 'auto or userspace', choice('auto', 'userspace'), 'auto')
    .option('--runtime <runtime>', 'auto, oci or docker', choice('auto', 'oci', 'docker'), 'auto')
    .option('--json', 'print the nodes as lab ls --json does', false)
    .action(async ({ json, ...request }: LabRequest & { json: boolean }) => {
      const plan = unwrap(await labUp(request, (line) => {
        if (!json) console.log(`lab ${request.name}: ${line}`);
      }));
      const nodes = await Promise.all(plan.nodes.map(nodeInfo));
      if (json) console.log(JSON.stringify(nodes, undefined, 2));
      else for (const node of nodes) console.log(`${node.name.padEnd(4)} ${node.role.padEnd(8)} ${node.address.padEnd(15)} docker -H unix://${node.socket}`);
    });
  lab.command('ls').description('nodes of a lab')
    .option('--name <name>', 'name of the lab', LAB_DEFAULT)
    .option('--all', 'names of all labs', false)
    .option('--json', 'for scripts', false)
    .action(async ({ name, all, json }: { name: string; all: boolean; json: boolean }) => {
      if (all) {
        const names = await labNames();
        console.log(json ? JSON.stringify(names) : names.join('\n'));
        return;
      }
      const nodes = await labList(name);
      if (json) console.log(JSON.stringify(nodes, undefined, 2));
      else for (const node of nodes) console.log(`${node.name.padEnd(4)} ${node.role.padEnd(8)} ${node.address.padEnd(15)} agent ${node.agentPid || 'down'}, datapath ${node.datapathPid || 'down'}, ${node.socket}`);
    });
  lab.command('exec').description('run a command in a node\'s namespace, the docker CLI pointed at it; NODE may be "client"')
    .option('--name <name>', 'name of the lab', LAB_DEFAULT)
    .argument('<node>').argument('<command...>')
    .passThroughOptions()
    .action(async (node: string, command: string[], { name }: { name: string }) => {
      exit(unwrap(await labExec(name, node, command)));
    });
  lab.command('down').description('remove a lab and everything it made')
    .option('--name <name>', 'name of the lab', LAB_DEFAULT)
    .action(async ({ name }: { name: string }) => {
      unwrap(await labDown(name));
      console.log(`lab ${name}: removed`);
    });
}
