// A bidding agent: asks the learner what to bid, and bids its base where there is no advice.
import 'reflect-metadata';
import { readFileSync } from 'node:fs';
import { ClientKafka } from '@nestjs/microservices';
import { firstValueFrom, timeout } from 'rxjs';

interface Request {
  agent_id: string;
  base_bid_sats: number;
  description: string;
  strategy?: 'classic' | 'expected-profit'; // without it the worker's own
  cost_sats?: number; // what the effort costs this agent, whether it succeeds or not
}

interface Reply {
  suggested_bid_sats: number;
  factor: number;
  adjustments: { rule: string; multiplier: number; reason: string }[];
}

const brokers = (process.env.LEARNER_BOOTSTRAP_SERVERS ?? 'localhost:9092').split(',');
const tokenFile = process.env.LEARNER_TOKEN_FILE; // where the learner wants to know who asks
const learner = new ClientKafka({
  client: { clientId: 'bidding-agent', brokers },
  consumer: { groupId: 'bidding-agent' },
});
learner.subscribeToResponseOf('suggest-bid-requests'); // create the topic suggest-bid-requests.reply first
await learner.connect();

function asked(request: Request): object {
  if (!tokenFile) return { value: request };
  const token = readFileSync(tokenFile, 'ascii').trim(); // each time: whoever renews it replaces the file
  return { value: request, headers: { authorization: `Bearer ${token}` } };
}

async function bid(request: Request): Promise<string> {
  try {
    const reply = await firstValueFrom(
      learner.send<Reply>('suggest-bid-requests', asked(request)).pipe(timeout(2_000)),
    );
    return `echo bids ${reply.suggested_bid_sats} sats: ${reply.adjustments.map((item) => item.reason)}`;
  } catch (error) {
    return `echo bids ${request.base_bid_sats} sats: ${error}`; // an error reply arrives here, too
  }
}

const question = { agent_id: 'echo', base_bid_sats: 1000, description: 'Fix the invoice parser' };
console.log(await bid({ ...question, strategy: 'expected-profit', cost_sats: 550 }));
await learner.close();
