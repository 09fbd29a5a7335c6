// Failures on demand.
//
//   {"path": "/token", "grant_type": "refresh_token", "client_id": ..., "times": 1, "mode": ...}
//     status    answer "status" (503) with "body" and "headers", and do nothing else
//     garbage   answer 200 with a "body" that is not JSON
//     drop      close the connection unanswered, before the provider has seen the request
//     after     let the provider act, then close the connection: the rotated token that never arrives
//     delay     wait "ms", then go on
//     hold      wait until DELETE /_ctl/hold, then go on: for tests that want many callers to wait for one answer
import { take } from './matching.mjs';

export const faults = [];
const held = new Set();

export function release() {
  for (const goOn of held) goOn();
  held.clear();
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
      await new Promise((goOn) => { held.add(goOn); });
      return false;
    default:
      throw new Error(`unknown fault mode ${fault.mode}`);
  }
}

function answer(response, status, body, headers) {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(body);
}
