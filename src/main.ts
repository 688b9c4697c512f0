// The `skein` program: parses arguments and hands over.

import { runCli } from './cli/cli.js';

process.exitCode = await runCli(process.argv.slice(2));
