// The `skein` program: parses arguments and hands over.

import { runCli } from './cli/cli.js';

const LINGER_MS = 200;

const args = process.argv.slice(2);
const code = await runCli(args);
process.exitCode = code;
// A command that failed does not live on by what it had opened: an agent that could not start would keep its port, serve
// nothing, and never be started again. Nor does an agent that has ended: a connection to a machine that is gone, which it
// was making, would hold it for two minutes.
if (code !== 0 || args[0] === 'agent') setTimeout(() => process.exit(code), LINGER_MS).unref();
