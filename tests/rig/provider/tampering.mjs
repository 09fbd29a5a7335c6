// Answers that are wrong on purpose, although well formed and well signed: what an attacker or a broken provider sends.
//
//   {"path": "/token", "grant_type": "refresh_token", "client_id": ..., "times": 1,     which answers
//    "json": {"token_type": "dPoP"}, "drop": ["expires_in"],                            members of the JSON answer
//    "claims": {"iss": "https://evil.example"}, "drop_claims": ["sub"],                 claims of its id_token, signed again
//    "header": {"kid": "x"}, "drop_header": ["kid"],
//    "sign": "none" | "wrong-key" | "bad-signature" | "hs256-public-key" | "ES256"}
//   {"path": "redirect", "query": {"state": "x"}, "drop": ["iss"],                      the redirect back to the application
//    "fragment": ["code"]}                                                              parameters that its fragment has, too
import crypto from 'node:crypto';
import { matches, take } from './matching.mjs';

export const tampers = [];

const RESIGNING = ['claims', 'drop_claims', 'header', 'drop_header', 'sign'];

export function tamper(response, entry, { issuer, jwks }) {
  tamperRedirects(response, entry, issuer);
  if (tampers.some((wanted) => matches(wanted, entry))) tamperBody(response, entry, jwks);
}

function tamperRedirects(response, entry, issuer) {
  const writeHead = response.writeHead.bind(response);
  response.writeHead = (status, ...rest) => {
    const location = response.getHeader('location');
    if (typeof location === 'string' && !location.startsWith('/') && !location.startsWith(issuer)) {
      const wanted = take(tampers, { path: 'redirect', client_id: entry.client_id });
      if (wanted) {
        const url = new URL(location);
        for (const [name, value] of Object.entries(wanted.query ?? {})) url.searchParams.set(name, value);
        if (wanted.fragment) url.hash = new URLSearchParams(wanted.fragment.map((name) => [name, url.searchParams.get(name)]));
        for (const name of wanted.drop ?? []) url.searchParams.delete(name);
        response.setHeader('location', url.href);
        entry.tampered = true;
      }
    }
    return writeHead(status, ...rest);
  };
}

function tamperBody(response, entry, jwks) {
  const chunks = [];
  const end = response.end.bind(response);
  response.write = (chunk) => chunks.push(Buffer.from(chunk)) > 0;
  response.end = (chunk, ...rest) => {
    if (chunk && typeof chunk !== 'function') chunks.push(Buffer.from(chunk));
    let body = Buffer.concat(chunks);
    const wanted = response.statusCode < 300 && take(tampers, entry);
    if (wanted) {
      body = Buffer.from(JSON.stringify(changed(JSON.parse(body), wanted, jwks)));
      response.setHeader('content-length', body.length);
      entry.tampered = true;
    }
    return end(body, ...rest);
  };
}

function changed(answer, wanted, jwks) {
  Object.assign(answer, wanted.json ?? {});
  for (const member of wanted.drop ?? []) delete answer[member];
  if (answer.id_token && RESIGNING.some((member) => member in wanted)) answer.id_token = signedAgain(answer.id_token, wanted, jwks);
  return answer;
}

function signedAgain(token, wanted, jwks) {
  const [header, claims] = token.split('.').slice(0, 2).map((part) => JSON.parse(Buffer.from(part, 'base64url')));
  let jwk = jwks.keys.find(({ kid }) => kid === header.kid);
  Object.assign(claims, wanted.claims ?? {});
  for (const name of wanted.drop_claims ?? []) delete claims[name];

  if (wanted.sign === 'none') header.alg = 'none';
  if (wanted.sign === 'hs256-public-key') header.alg = 'HS256';
  if (wanted.sign === 'ES256') {
    jwk = jwks.keys.find(({ crv }) => crv === 'P-256');
    Object.assign(header, { alg: 'ES256', kid: jwk.kid });
  }
  Object.assign(header, wanted.header ?? {});
  for (const name of wanted.drop_header ?? []) delete header[name];

  const encode = (part) => Buffer.from(JSON.stringify(part)).toString('base64url');
  const signed = `${encode(header)}.${encode(claims)}`;
  return `${signed}.${signature(signed, header.alg, jwk, wanted.sign)}`;
}

function signature(signed, alg, jwk, how) {
  if (how === 'none') return '';
  if (how === 'hs256-public-key') {
    // RFC 8725, section 2.1: the published RSA key, used as if it were a shared secret.
    const pem = crypto.createPublicKey({ key: jwk, format: 'jwk' }).export({ type: 'spki', format: 'pem' });
    return crypto.createHmac('sha256', pem).update(signed).digest('base64url');
  }
  const key = how === 'wrong-key'
    ? crypto.generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey
    : crypto.createPrivateKey({ key: jwk, format: 'jwk' });
  const value = crypto.sign(alg.startsWith('Ed') ? null : 'sha256', Buffer.from(signed), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url');
  return how === 'bad-signature' ? (value[0] === 'A' ? 'B' : 'A') + value.slice(1) : value;
}
