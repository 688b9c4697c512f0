// A call of the node protocol from inside a lab host: `nsenter --net=... node node-call.js FILE`. FILE holds the
// address, the credentials and the call as JSON; the answer is one line of JSON on stdout.

import { readFileSync } from 'node:fs';
import { fromJson, toJson, type DescMethodUnary } from '@bufbuild/protobuf';
import { ManagerClient, type Credentials } from '../../src/io/grpc/client.js';
import { codeOf } from '../../src/io/grpc/service.js';
import { CA, Dispatcher, Health, NodeCA } from '../../src/model/proto/swarmkit_pb.js';

export interface NodeCall {
  readonly address: string;
  readonly credentials: Credentials;
  readonly service: 'CA' | 'Dispatcher' | 'Health' | 'NodeCA';
  readonly method: string;
  readonly request: object;
}

export interface NodeAnswer {
  /** gRPC status; 0 is OK. */
  readonly code: number;
  readonly details: string;
  readonly response: Record<string, unknown>;
}

const SERVICES = { CA, Dispatcher, Health, NodeCA };

async function main(file: string): Promise<NodeAnswer> {
  const call = JSON.parse(readFileSync(file, 'utf8')) as NodeCall;
  const method = SERVICES[call.service].methods.find((m) => m.name === call.method) as DescMethodUnary;
  const client = new ManagerClient(call.address, call.credentials);
  try {
    const response = await client.unary(method, fromJson(method.input, call.request as never), 5000);
    return { code: 0, details: '', response: toJson(method.output, response) as Record<string, unknown> };
  } catch (error) {
    const code = codeOf(error);
    if (code === undefined) throw error;
    return { code, details: (error as { details?: string }).details ?? '', response: {} };
  } finally {
    client.close();
  }
}

const file = process.argv[2];
if (file !== undefined && process.argv[1] === import.meta.filename) console.log(JSON.stringify(await main(file)));
