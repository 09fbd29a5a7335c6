// What the application under test has asked for. Secrets, tokens and codes appear as a fingerprint only, so that a test can
// compare them ("the same refresh token, twice") and a log can be printed.
import crypto from 'node:crypto';
import { matches } from './matching.mjs';

const SECRET = /secret|assertion|password|token$|^code$|code_verifier/;

export const log = [];
const waiting = new Set();

export const fingerprint = (value) => `sha256:${crypto.createHash('sha256').update(value).digest('hex').slice(0, 16)}`;

export function record(request, url, form) {
  const parameters = form ?? Object.fromEntries(url.searchParams);
  const [scheme, credentials] = (request.headers.authorization ?? '').split(' ');
  const entry = {
    at: Date.now() / 1000,
    method: request.method,
    path: url.pathname,
    client_id: clientId(parameters, scheme, credentials),
    grant_type: parameters.grant_type,
    params: Object.fromEntries(Object.entries(parameters).map(([name, value]) => [name, SECRET.test(name) ? fingerprint(String(value)) : value])),
    auth: scheme || undefined,
    headers: { ...request.headers, ...(scheme ? { authorization: `${scheme} ${fingerprint(credentials ?? '')}` } : {}), cookie: undefined },
  };
  log.push(entry);
  for (const waiter of waiting) waiter();
  return entry;
}

// Resolves once *count* requests that match have arrived, whether answered or not; or to false after *seconds*.
export function arrived(wanted, count, seconds) {
  return new Promise((resolve) => {
    const finish = (value) => { waiting.delete(look); clearTimeout(timer); resolve(value); };
    const look = () => log.filter((entry) => matches(wanted, entry)).length >= count && finish(true);
    const timer = setTimeout(() => finish(false), seconds * 1000);
    waiting.add(look);
    look();
  });
}

function clientId(parameters, scheme, credentials) {
  if (parameters.client_id) return parameters.client_id;
  try {
    if (/^basic$/i.test(scheme)) {
      const name = Buffer.from(credentials, 'base64').toString().split(':')[0];
      return decodeURIComponent(name.replaceAll('+', ' '));
    }
    if (parameters.client_assertion) return JSON.parse(Buffer.from(parameters.client_assertion.split('.')[1], 'base64url')).sub;
  } catch { /* nonsense is nobody's request */ }
  return undefined;
}
