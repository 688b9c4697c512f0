// Started by the executor tests and killed with SIGKILL: an agent that starts a task and then just is.

import { openExecutor, type OpenOptions } from './executor-open.js';
import { collect, makeEnvironment, makeTask, shell, textOf } from './executor-fixture.js';

const [verb = '', optionsJson = '', netns = '', taskId = '', script = ''] = process.argv.slice(2);
const executor = openExecutor(JSON.parse(optionsJson) as OpenOptions);
if (verb === 'start') {
  const task = makeTask(shell(script), { id: taskId });
  const controller = executor.controller(taskId);
  await controller.prepare(task, makeEnvironment(netns, task));
  const state = await controller.start();
  console.log(JSON.stringify(state));
  setInterval(() => undefined, 1000);
} else {
  const ids = await executor.adopt();
  const controller = executor.controller(taskId);
  const state = controller.state();
  console.log(JSON.stringify({ adopted: ids.includes(taskId), state }));
  const exit = await controller.wait();
  console.log(JSON.stringify({ exit, logs: textOf(await collect(controller, { follow: true })) }));
  await executor.close();
}
