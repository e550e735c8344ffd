// A worker: subscribes with a queue group, so that each run is done by one of its processes.
//
//   npm install && NATS_URL=nats://localhost:4222 node worker.mjs "demo.>"

import process from "node:process";
import { connect, headers } from "@nats-io/transport-node";

const QUEUE = "workers";
const REMEMBER = 10_000;

// The ids of the runs that were done: after a fault the same run may come twice, always under the same id.
const seen = new Set();

// Put your own code here.
async function work(subject, run, text) {
  console.log(`done ${subject} run ${run}: ${text}`);
}

async function handle(message) {
  const run = message.headers?.get("Nats-Cron-Run") ?? "";
  try {
    if (!run || !seen.has(run)) {
      await work(message.subject, run, message.string());
      remember(run);
    }
  } catch (error) {
    console.error(`failed ${message.subject} run ${run}: ${error.message}`);
    if (message.reply) {
      const answer = headers();
      answer.set("Nats-Service-Error", error.message);
      answer.set("Nats-Service-Error-Code", "500");
      message.respond("", { headers: answer });
    }
    return;
  }
  // Jobs with "delivery": "request" wait for an answer; it becomes the run's outcome.
  if (message.reply) {
    message.respond("done");
  }
}

function remember(run) {
  seen.add(run);
  if (seen.size > REMEMBER) {
    seen.delete(seen.values().next().value);
  }
}

// The client takes credentials and TLS as options, other clients in the URL.
function options(text) {
  const url = new URL(text);
  const [user, pass] = [decodeURIComponent(url.username), decodeURIComponent(url.password)];
  return {
    servers: url.host,
    maxReconnectAttempts: -1,
    ...(pass ? { user, pass } : user ? { token: user } : {}),
    ...(url.protocol === "tls:" ? { tls: {} } : {}),
  };
}

const subjects = process.argv.slice(2);
if (subjects.length === 0) {
  console.error('give the subjects to listen on, such as "reports.>"');
  process.exit(2);
}

const client = await connect(options(process.env.NATS_URL ?? "nats://localhost:4222"));
const loops = subjects.map(async (subject) => {
  for await (const message of client.subscribe(subject, { queue: QUEUE })) {
    await handle(message);
  }
});
await client.flush();
console.log(`listening on ${subjects.join(" ")} as one of ${QUEUE}`);

// Finish what was begun, take nothing new.
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, () => client.drain());
}
await Promise.all(loops);
