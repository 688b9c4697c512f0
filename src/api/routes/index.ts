// All routes. What Docker has and this engine does not is answered by name, saying what to do instead.

import { failure } from '../errors.js';
import type { Route } from '../http.js';
import { containerRoutes } from './containers.js';
import { eventRoutes } from './events.js';
import { imageRoutes } from './images.js';
import { logRoutes } from './logs.js';
import { networkRoutes } from './networks.js';
import { nodeRoutes } from './nodes.js';
import { payloadRoutes } from './payloads.js';
import { serviceRoutes } from './services.js';
import { swarmRoutes } from './swarm.js';
import { systemRoutes } from './system.js';
import { taskRoutes } from './tasks.js';

function unsupported(method: string, path: string, what: string, instead: string): Route {
  return [method, path, () => {
    throw failure('unimplemented', `${what} is not supported by skein: ${instead}`);
  }];
}

const SERVICE = 'use `docker service create` to run containers';
const IMAGES = 'build or pull elsewhere and bring the image with `docker load` or `docker import`';

function unsupportedRoutes(): Route[] {
  return [
    unsupported('POST', '/containers/create', 'running a container outside a service', SERVICE),
    unsupported('POST', '/containers/prune', 'pruning containers', 'tasks are removed with their service'),
    unsupported('POST', '/containers/:id/:verb', 'changing a single container', 'scale, update or remove its service'),
    unsupported('DELETE', '/containers/:id', 'removing a single container', 'scale or remove its service'),
    unsupported('POST', '/exec/:id/:verb', 'exec', 'use `skein lab exec` or nsenter on the node'),
    unsupported('POST', '/build', 'building images', IMAGES),
    unsupported('POST', '/build/prune', 'pruning builds', 'there is nothing to prune'),
    unsupported('POST', '/session', 'building images', IMAGES),
    unsupported('POST', '/grpc', 'building images', IMAGES),
    unsupported('POST', '/commit', 'committing a container', IMAGES),
    unsupported('GET', '/images/get', 'saving images', 'keep the tar you loaded'),
    unsupported('GET', '/images/search', 'searching a registry', IMAGES),
    unsupported('POST', '/auth', 'logging in to a registry', IMAGES),
    unsupported('POST', '/volumes/create', 'creating a volume by hand', 'name it in a service mount, it is made on use'),
    unsupported('POST', '/networks/:id/connect', 'connecting a single container to a network',
      'use `docker service update --network-add`'),
    unsupported('POST', '/networks/:id/disconnect', 'disconnecting a single container from a network',
      'use `docker service update --network-rm`'),
    unsupported('POST', '/plugins/pull', 'installing plugins', 'drivers are built in'),
  ];
}

export function routes(): Route[] {
  return [
    ...systemRoutes(), ...swarmRoutes(), ...nodeRoutes(), ...serviceRoutes(), ...taskRoutes(), ...networkRoutes(), ...payloadRoutes(),
    ...imageRoutes(), ...containerRoutes(), ...logRoutes(), ...eventRoutes(), ...unsupportedRoutes(),
  ];
}
