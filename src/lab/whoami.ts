// The demo's service: answers every HTTP request with its own name and the client address it saw.

import http from 'node:http';
import os from 'node:os';

const port = Number(process.env['PORT'] ?? '80');
const server = http.createServer((request, response) => {
  response.setHeader('content-type', 'application/json');
  response.end(`${JSON.stringify({
    hostname: os.hostname(), task: process.env['TASK'] ?? '', node: process.env['NODE'] ?? '', client: request.socket.remoteAddress ?? '',
  })}\n`);
});
server.listen(port, '0.0.0.0');
process.on('SIGTERM', () => {
  server.close();
  server.closeIdleConnections();
  process.exit(0);
});
