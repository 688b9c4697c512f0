// /swarm: init, join, leave, inspect, update, unlock key, unlock.

import { checkClusterSpec } from '../../core/control/cluster.js';
import { overlaps, parseSubnet } from '../../core/control/subnet.js';
import { unwrap } from '../../lib/result.js';
import { unlockKeyOf } from '../../model/cluster.js';
import { toRecord } from '../../model/pairs.js';
import { durationNs } from '../../lib/time.js';
import { RaftMemberStatus_Reachability } from '../../model/proto/swarmkit_pb.js';
import { DEFAULT_PORT, join, resolveAdvertise, resolveDataPath, resolveListen, splitHostPort } from '../addresses.js';
import type { InitRequest, LocalNode } from '../backend.js';
import type { Reader } from '../convert/json.js';
import { clusterSpecFromJson, swarmToJson } from '../convert/swarm.js';
import { parseUnlockKey, unlockKeyText } from '../convert/unlock.js';
import { ALREADY_IN_SWARM, failure, NOT_IN_SWARM, notManager } from '../errors.js';
import type { Call, Route } from '../http.js';

const JOIN_TOKEN = /^SWMTKN-(1-[0-9a-z]{50}-[0-9a-z]{25}|2-[01]-[0-9a-z]{50}-[0-9a-z]{25})$/;
const WRONG_NAME = 'swarm spec must be named "default"';
const AVAILABILITIES = ['active', 'pause', 'drain'] as const;

export function swarmRoutes(): Route[] {
  return [
    ['POST', '/swarm/init', init],
    ['POST', '/swarm/join', joinSwarm],
    ['POST', '/swarm/leave', leave],
    ['GET', '/swarm', inspect],
    ['POST', '/swarm/update', update],
    ['GET', '/swarm/unlockkey', unlockKey],
    ['POST', '/swarm/unlock', unlock],
  ];
}

function availabilityOf(json: Reader): (typeof AVAILABILITIES)[number] {
  const text = json.text('Availability').toLowerCase();
  const found = AVAILABILITIES.find((word) => word === (text === '' ? 'active' : text));
  if (found === undefined) throw failure('invalid_argument', `invalid Availability: "${text}"`);
  return found;
}

function refuseIfInSwarm(local: LocalNode): void {
  if (local.state !== 'inactive') throw failure('unavailable', ALREADY_IN_SWARM);
}

function poolsOf(json: Reader): { pools: string[]; size: number } {
  const pools = json.texts('DefaultAddrPool');
  const size = json.uint32('SubnetSize');
  if (size > 29) throw failure('invalid_argument', `invalid subnet size: ${size}: must be at most 29`);
  const ranges = pools.map((pool) => {
    const range = parseSubnet(pool);
    if (range === undefined || !range.canonical) throw failure('invalid_argument', `invalid default address pool: ${pool}`);
    if (size !== 0 && range.prefix > size) {
      throw failure('invalid_argument', `invalid CIDR: ${pool}: subnet size ${size} is larger than the pool`);
    }
    return range;
  });
  for (const [i, range] of ranges.entries()) {
    if (ranges.slice(0, i).some((other) => overlaps(range, other))) {
      throw failure('invalid_argument', `default address pools overlap: ${pools.join(', ')}`);
    }
  }
  return { pools, size };
}

function initRequest(json: Reader): InitRequest {
  const dataPathPort = json.uint32('DataPathPort');
  if (dataPathPort !== 0 && (dataPathPort < 1024 || dataPathPort > 49151)) {
    throw failure('invalid_argument', `Datapath port number is not in valid range (1024-49151) : ${dataPathPort}`);
  }
  const specJson = json.object('Spec');
  const name = specJson?.text('Name') ?? '';
  if (name !== '' && name !== 'default') throw failure('invalid_argument', WRONG_NAME);
  const spec = specJson === undefined ? undefined : clusterSpecFromJson(specJson, undefined);
  const refusal = spec === undefined ? undefined : checkClusterSpec(spec);
  if (refusal !== undefined) unwrap(refusal);
  const { pools, size } = poolsOf(json);
  const listenAddr = resolveListen(json.text('ListenAddr'));
  const nonZero = (ns: bigint): bigint | undefined => (ns === 0n ? undefined : ns);
  const limit = specJson?.object('Orchestration')?.optionalInt('TaskHistoryRetentionLimit');
  return {
    listenAddr,
    advertiseAddr: resolveAdvertise(json.text('AdvertiseAddr'), listenAddr),
    dataPathAddr: resolveDataPath(json.text('DataPathAddr')),
    dataPathPort,
    forceNewCluster: json.flag('ForceNewCluster'),
    availability: availabilityOf(json),
    defaultAddrPool: pools,
    subnetSize: size,
    autoLockManagers: json.flag('AutoLockManagers') || spec?.encryptionConfig?.autoLockManagers === true,
    taskHistoryRetentionLimit: limit === undefined ? undefined : Number(limit),
    heartbeatPeriodNs: nonZero(durationNs(spec?.dispatcher?.heartbeatPeriod)),
    nodeCertExpiryNs: nonZero(durationNs(spec?.caConfig?.nodeCertExpiry)),
    snapshotInterval: nonZero(spec?.raft?.snapshotInterval ?? 0n),
    keepOldSnapshots: spec?.raft?.keepOldSnapshots,
    labels: toRecord(spec?.annotations?.labels),
  };
}

async function init(call: Call): Promise<void> {
  const json = await call.json();
  if (!json.flag('ForceNewCluster')) refuseIfInSwarm(call.backend.local());
  call.reply(200, unwrap(await call.backend.swarmInit(initRequest(json))));
}

async function joinSwarm(call: Call): Promise<void> {
  const json = await call.json();
  refuseIfInSwarm(call.backend.local());
  const remoteAddrs = json.texts('RemoteAddrs').map((text) => {
    const address = splitHostPort(text, DEFAULT_PORT);
    if (address === undefined || address.host === '') {
      throw failure('invalid_argument', `invalid remote address: ${text}`);
    }
    return join(address);
  });
  if (remoteAddrs.length === 0) throw failure('invalid_argument', 'at least 1 RemoteAddr is required to join');
  const joinToken = json.text('JoinToken');
  if (!JOIN_TOKEN.test(joinToken)) throw failure('invalid_argument', 'invalid join token');
  const listenAddr = resolveListen(json.text('ListenAddr'));
  const advertise = json.text('AdvertiseAddr');
  unwrap(await call.backend.swarmJoin({
    listenAddr,
    // A joining node may leave it open: the address it reaches the manager from is as good.
    advertiseAddr: advertise === '' ? '' : resolveAdvertise(advertise, listenAddr),
    dataPathAddr: resolveDataPath(json.text('DataPathAddr')),
    remoteAddrs,
    joinToken,
    availability: availabilityOf(json),
  }));
  call.reply(200);
}

async function leave(call: Call): Promise<void> {
  const local = call.backend.local();
  if (local.state === 'inactive') throw failure('unavailable', NOT_IN_SWARM);
  const force = call.flag('force');
  if (local.isManager && !force) throw failure('unavailable', managerLeaves(call));
  unwrap(await call.backend.swarmLeave(force));
  call.reply(200);
}

/** Members of the group: a node that left by force still is to be a manager, but does not count. */
function managerLeaves(call: Call): string {
  return leaveWarning(call.backend.manager()?.view().list('node')
    .flatMap(({ managerStatus }) => managerStatus === undefined ? [] : [managerStatus.reachability]));
}

/** Docker's warning, which depends on what leaving does to the quorum; the members may not be known. */
function leaveWarning(members: readonly RaftMemberStatus_Reachability[] | undefined): string {
  const head = 'You are attempting to leave the swarm on a node that is participating as a manager. ';
  const tail = 'The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. '
    + 'Use `--force` to suppress this message.';
  if (members === undefined) return `${head}Doing so may lose the consensus of your cluster. ${tail}`;
  const reachable = members.filter((each) => each === RaftMemberStatus_Reachability.REACHABLE).length;
  if (members.length <= 1) {
    return `${head}Removing the last manager erases all current state of the swarm. Use \`--force\` to ignore this message. `;
  }
  if (reachable - 2 > members.length - reachable) return `${head}${tail}`;
  return `${head}Removing this node leaves ${reachable - 1} managers out of ${members.length}. Without a Raft quorum your `
    + `swarm will be inaccessible. ${tail}`;
}

function inspect(call: Call): void {
  const cluster = call.manager().view().cluster();
  if (cluster === undefined) throw failure('not_found', 'no such cluster: the swarm is not initialised yet');
  call.reply(200, swarmToJson(cluster));
}

async function update(call: Call): Promise<void> {
  const manager = call.manager();
  const version = call.version('swarm');
  const json = await call.json();
  if (!['', 'default'].includes(json.text('Name'))) throw failure('invalid_argument', WRONG_NAME);
  unwrap(await manager.updateSwarm({
    version,
    spec: clusterSpecFromJson(json, manager.view().cluster()?.spec),
    rotateWorkerToken: call.flag('rotateWorkerToken'),
    rotateManagerToken: call.flag('rotateManagerToken'),
    rotateManagerUnlockKey: call.flag('rotateManagerUnlockKey'),
  }));
  call.reply(200);
}

function unlockKey(call: Call): void {
  const key = unlockKeyOf(call.manager().view().cluster());
  call.reply(200, { UnlockKey: key === undefined ? '' : unlockKeyText(key) });
}

async function unlock(call: Call): Promise<void> {
  const json = await call.json();
  const local = call.backend.local();
  if (local.state !== 'locked') {
    throw call.backend.manager() === undefined ? notManager(local) : failure('already_exists', 'swarm is not locked');
  }
  const key = parseUnlockKey(json.text('UnlockKey'));
  if (key === undefined) throw failure('invalid_argument', 'invalid key string');
  unwrap(await call.backend.swarmUnlock(key));
  call.reply(200);
}
