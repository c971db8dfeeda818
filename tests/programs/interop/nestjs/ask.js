// Asks the learner through NestJS's ClientKafka and prints what it was told as JSON lines.
import 'reflect-metadata';
import { readFileSync } from 'node:fs';
import { ClientKafka } from '@nestjs/microservices';
import { lastValueFrom, timeout, toArray } from 'rxjs';

const PATIENCE_MS = 15_000;
const SILENCE_MS = 4_000;
const plan = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const check = (what, holds) => print({ check: what, holds });

/** Nest's client, but waiting for its replies on a topic that the learner must not write. */
class ClientWithUnlistedReplies extends ClientKafka {
  getResponsePatternName() {
    return plan.unlisted_topic;
  }
}

async function connected(Client) {
  const client = new Client({
    client: { clientId: 'interop', brokers: [plan.bootstrap_servers], logCreator: () => () => {} },
    consumer: { groupId: `nestjs-${process.pid}-${Client.name}` },
  });
  client.subscribeToResponseOf(plan.requests);
  await client.connect();
  return client;
}

/** A payload as an agent sends it that has to prove who it is; as it is where the plan has no token. */
const proved = (payload, token = plan.token) => {
  if (!token) {
    return payload;
  }
  const message = 'value' in payload ? payload : { value: payload };
  return { ...message, headers: { authorization: `Bearer ${token}` } };
};

/** Every value until the observable completes: one, if the reply says that it is the last. */
const values = (client, payload, ms = PATIENCE_MS) =>
  lastValueFrom(client.send(plan.requests, payload).pipe(toArray(), timeout(ms)));

async function answered(client, way, payloadOf) {
  for (const { name, request } of plan.asks) {
    const replies = await values(client, proved(payloadOf(request)));
    print({ way, ask: name, reply: replies[0] });
    check('the observable completes with one value', replies.length === 1);
  }
}

async function refused(client, way, name, payload) {
  try {
    print({ way, ask: name, error: `none: ${JSON.stringify(await values(client, payload))}` });
  } catch (error) {
    print({ way, ask: name, error: `the observable errors: ${error.message ?? error}` });
  }
}

async function silent() {
  const client = await connected(ClientWithUnlistedReplies);
  const { name, request } = plan.refused;
  try {
    print({ way: 'unlisted', ask: name, reply: await values(client, proved(request), SILENCE_MS) });
  } catch (error) {
    print({ way: 'unlisted', ask: name, silence: error.name });
  }
  await client.close();
}

print({ version: JSON.parse(readFileSync('node_modules/@nestjs/microservices/package.json', 'utf8')).version });
const client = await connected(ClientKafka);
await answered(client, 'send, no key', (request) => request);
await answered(client, 'send, keyed', (request) => ({ key: request.agent_id, value: request }));
await refused(client, 'send, no key', plan.wrong.name, proved(plan.wrong.request));
for (const { name, token } of plan.unproved) {
  await refused(client, 'send, unproved', name, proved(plan.asks[0].request, token));
}
await client.close();
await silent();
