// /_ping, /version, /info and the small answers the CLI asks of every engine.

import os from 'node:os';
import { readFileSync } from 'node:fs';
import { create } from '@bufbuild/protobuf';
import { AppFailure } from '../../lib/result.js';
import { NodeDescriptionSchema, type NodeDescription } from '../../model/proto/swarmkit_pb.js';
import { toRecord } from '../../model/pairs.js';
import { apiVersion, engineVersion, minApiVersion } from '../../lib/version.js';
import type { NodeBackend } from '../backend.js';
import { clusterToJson } from '../convert/swarm.js';
import type { JsonObject } from '../convert/json.js';
import { digestId } from '../names.js';
import type { Call, Route } from '../http.js';

export function systemRoutes(): Route[] {
  return [
    ['GET', '/_ping', ping],
    ['HEAD', '/_ping', ping],
    ['GET', '/version', version],
    ['GET', '/info', info],
    ['GET', '/system/df', diskUsage],
    ['GET', '/volumes', (call) => call.reply(200, { Volumes: [], Warnings: null })],
    ['GET', '/plugins', (call) => call.reply(200, [])],
  ];
}

function swarmHeader(backend: NodeBackend): string {
  const local = backend.local();
  if (local.state !== 'active') return local.state;
  return local.isManager ? 'active/manager' : 'active/worker';
}

function ping(call: Call): void {
  const { response } = call;
  response.setHeader('Swarm', swarmHeader(call.backend));
  response.setHeader('Builder-Version', '1');
  response.setHeader('Cache-Control', 'no-cache, no-store, must-revalidate');
  response.setHeader('Pragma', 'no-cache');
  response.setHeader('Content-Type', 'text/plain; charset=utf-8');
  response.statusCode = 200;
  if (call.request.method === 'HEAD') {
    response.setHeader('Content-Length', 0);
    response.end();
  } else {
    response.end('OK');
  }
}

/** Go's names for the processor. */
function goArch(): string {
  return os.arch() === 'x64' ? 'amd64' : os.arch();
}

function version(call: Call): void {
  const common = {
    ApiVersion: apiVersion, Arch: goArch(), BuildTime: '', GitCommit: 'skein', GoVersion: `node ${process.version}`,
    KernelVersion: os.release(), MinAPIVersion: minApiVersion, Os: 'linux',
  };
  call.reply(200, {
    Platform: { Name: 'Skein' },
    Version: engineVersion,
    ...common,
    Experimental: false,
    Components: [{ Name: 'Engine', Version: engineVersion, Details: { ...common, Experimental: 'false' } }],
  });
}

function operatingSystem(): { name: string; version: string } {
  try {
    const text = readFileSync('/etc/os-release', 'utf8');
    const field = (key: string): string => new RegExp(`^${key}="?(.*?)"?$`, 'm').exec(text)?.[1] ?? '';
    return { name: field('PRETTY_NAME') || 'Linux', version: field('VERSION_ID') };
  } catch {
    return { name: 'Linux', version: '' };
  }
}

function swarmInfo(backend: NodeBackend): JsonObject {
  const local = backend.local();
  const view = backend.manager()?.view();
  const cluster = view?.cluster();
  const base = {
    NodeID: local.nodeId,
    NodeAddr: local.nodeAddr,
    LocalNodeState: local.state,
    ControlAvailable: view !== undefined,
    Error: local.error,
    RemoteManagers: local.remoteManagers.length === 0 ? null
      : local.remoteManagers.map((peer) => ({ NodeID: peer.nodeId, Addr: peer.addr })),
  };
  if (view === undefined) return base;
  const nodes = view.list('node');
  const managers = nodes.filter((node) => node.managerStatus !== undefined).length;
  return {
    ...base,
    Nodes: nodes.length,
    Managers: managers,
    ...(managers > 0 && managers % 2 === 0 ? { Warnings: [evenManagers(managers)] } : {}),
    ...(cluster === undefined ? {} : { Cluster: clusterToJson(cluster) }),
  };
}

/** Docker's text for two; it says nothing of four or six, which lose what one more than three or five was added for. */
function evenManagers(count: number): string {
  if (count === 2) {
    return `WARNING: Running Swarm in a two-manager configuration. This configuration provides
         no fault tolerance, and poses a high risk to lose control over the cluster.
         Refer to https://docs.docker.com/engine/swarm/admin_guide/ to configure the
         Swarm for fault-tolerance.`;
  }
  return `WARNING: Running Swarm with an even number of managers (${count}). This configuration survives the loss of
         ${count / 2 - 1}, as ${count - 1} managers do. Use "docker node promote" or "docker node demote" to make it an odd number.`;
}

/** While the Engine that runs the tasks does not answer, the swarm's part of the answer still is true. */
async function machine(backend: NodeBackend) {
  const { executor } = backend;
  try {
    const [description, containers, images] = await Promise.all([
      executor.describe(backend.hostname), executor.containers(), executor.images.list(),
    ]);
    return { description, containers, images, warnings: [] };
  } catch (error) {
    if (!(error instanceof AppFailure) || error.code !== 'unavailable') throw error;
    return { description: create(NodeDescriptionSchema), containers: [], images: [], warnings: [`WARNING: ${error.message}`] };
  }
}

async function info(call: Call): Promise<void> {
  const { backend } = call;
  const { description, containers, images, warnings } = await machine(backend);
  const running = containers.filter((container) => container.state === 'running').length;
  const system = operatingSystem();
  const swarm = swarmInfo(backend);
  const remarks = [...warnings, ...swarm.Warnings as string[] ?? []];
  call.reply(200, {
    ID: digestId(`engine ${backend.hostname} ${backend.stateDir}`).slice(0, 36),
    Containers: containers.length, ContainersRunning: running, ContainersPaused: 0,
    ContainersStopped: containers.length - running,
    Images: images.length,
    ...engineInfo(backend, description),
    Name: backend.hostname,
    SystemTime: new Date().toISOString(),
    KernelVersion: os.release(), OperatingSystem: system.name, OSVersion: system.version, OSType: 'linux',
    Architecture: description.platform?.architecture || os.machine(),
    Labels: Object.entries(toRecord(description.engine?.labels)).map(([key, value]) => `${key}=${value}`),
    NCPU: Math.round(Number(description.resources?.nanoCpus ?? 0n) / 1e9) || os.cpus().length,
    MemTotal: Number(description.resources?.memoryBytes ?? 0n) || os.totalmem(),
    GenericResources: null,
    Swarm: swarm,
    Warnings: remarks.length === 0 ? null : remarks,
  });
}

function engineInfo(backend: NodeBackend, description: NodeDescription): JsonObject {
  const runtime = backend.executor.kind === 'docker' ? 'docker' : 'oci';
  return {
    Driver: 'overlay2', DriverStatus: [['Backing Filesystem', 'overlayfs']],
    Plugins: { Volume: ['local'], Network: ['overlay'], Authorization: null, Log: ['json-file'] },
    MemoryLimit: true, SwapLimit: true, CpuCfsPeriod: true, CpuCfsQuota: true, CPUShares: true, CPUSet: true,
    PidsLimit: true, IPv4Forwarding: true, BridgeNfIptables: true, BridgeNfIp6tables: true, OomKillDisable: false, Debug: false, NFd: 0, NGoroutines: 0, NEventsListener: 0,
    LoggingDriver: 'json-file', CgroupDriver: 'cgroupfs', CgroupVersion: '2',
    IndexServerAddress: 'https://index.docker.io/v1/',
    RegistryConfig: { InsecureRegistryCIDRs: [], IndexConfigs: {}, Mirrors: null },
    DockerRootDir: backend.stateDir, HttpProxy: '', HttpsProxy: '', NoProxy: '', ExperimentalBuild: false,
    ServerVersion: description.engine?.engineVersion || engineVersion,
    Runtimes: { [runtime]: { path: runtime } }, DefaultRuntime: runtime, LiveRestoreEnabled: true, Isolation: '',
    InitBinary: '', ContainerdCommit: { ID: '' }, RuncCommit: { ID: '' }, InitCommit: { ID: '' },
    SecurityOptions: ['name=seccomp,profile=builtin'], CDISpecDirs: null,
  };
}

async function diskUsage(call: Call): Promise<void> {
  const images = await call.backend.executor.images.list();
  call.reply(200, {
    LayersSize: images.reduce((sum, image) => sum + image.sizeBytes, 0),
    Images: images.map((image) => ({
      Id: image.id, RepoTags: image.repoTags, Created: Math.floor(image.createdMs / 1000), Size: image.sizeBytes,
      SharedSize: 0, Containers: 0, Labels: null,
    })),
    Containers: [], Volumes: [], BuildCache: [],
  });
}
