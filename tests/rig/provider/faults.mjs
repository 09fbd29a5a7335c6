// Failures on demand.
//
//   {"path": "/token", "grant_type": "refresh_token", "client_id": ..., "times": 1, "mode": ...}
//     status    answer "status" (503) with "body" and "headers", and do nothing else
//     garbage   answer 200 with a "body" that is not JSON
//     huge      answer "status" (200) with "bytes" (100 MB) of blanks, as fast as they are read
//     drip      answer "status" (200) with "headers" at once, then with one byte of "body" every "ms" (100), and no end
//     drop      close the connection unanswered, before the provider has seen the request
//     after     let the provider act, then close the connection: the rotated token that never arrives
//     delay     wait "ms", then go on
//     hold      wait until DELETE /_ctl/hold, then go on: for tests that want many callers to wait for one answer
//     keep      let the provider act, then keep the answer until DELETE /_ctl/hold
//
// DELETE of faults and holds takes the same criteria; without any, everything goes.
import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import { matches, take } from './matching.mjs';

export const faults = [];
const held = new Map();
const MEBIBYTE = 1 << 20;

export function release(wanted = {}) {
  for (const [goOn, entry] of held) {
    if (!matches(wanted, entry)) continue;
    held.delete(goOn);
    goOn();
  }
}

export function clear(wanted = {}) {
  faults.splice(0, faults.length, ...faults.filter((fault) => !matches(wanted, fault)));
}

// True where the request has been dealt with.
export async function fail(request, response, entry) {
  const fault = take(faults, entry);
  if (!fault) return false;
  entry.fault = fault.mode;
  switch (fault.mode) {
    case 'status':
      answer(response, fault.status ?? 503, fault.body ?? '{"error":"temporarily_unavailable"}', fault.headers);
      return true;
    case 'garbage':
      answer(response, 200, fault.body ?? '<html>not json</html>', fault.headers);
      return true;
    case 'huge':
      await huge(response, fault);
      return true;
    case 'drip':
      await drip(response, fault);
      return true;
    case 'drop':
      request.socket.destroy();
      return true;
    case 'after':
      response.write = () => true;
      response.end = function end() {
        entry.status ??= response.statusCode;
        request.socket.destroy();
        return this;
      };
      return false;
    case 'delay':
      await new Promise((goOn) => { setTimeout(goOn, fault.ms); });
      return false;
    case 'hold':
      await new Promise((goOn) => { held.set(goOn, entry); });
      return false;
    case 'keep': {
      const end = response.end.bind(response);
      response.end = function later(...answer) {
        entry.kept = response.statusCode;
        held.set(() => end(...answer), entry);
        return this;
      };
      return false;
    }
    default:
      throw new Error(`unknown fault mode ${fault.mode}`);
  }
}

function answer(response, status, body, headers) {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(body);
}

async function huge(response, { status = 200, bytes = 100 * MEBIBYTE, headers }) {
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': bytes, ...headers });
  const chunk = Buffer.alloc(MEBIBYTE, ' ');
  for (let left = bytes; left > 0 && !response.destroyed; left -= MEBIBYTE) {
    if (!response.write(chunk.subarray(0, left))) await drained(response);
  }
  if (!response.destroyed) response.end();
}

// Or the reader has gone.
async function drained(response) {
  const stop = new AbortController();
  const either = { signal: stop.signal };
  await Promise.race([once(response, 'drain', either), once(response, 'close', either)]).catch(() => {});
  stop.abort();
}

async function drip(response, { status = 200, body = ' ', ms = 100, headers }) {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.flushHeaders();
  for (let place = 0; !response.destroyed; place = (place + 1) % body.length) {
    response.write(body[place]);
    await pause(ms);
  }
}
