// The page of the demo. All that it knows of coatcheck: /bff/login, /bff/user, the logout link, one header, and the
// module that says when the session ends.

import { watchSession } from "/bff/session.js";

const CSRF = { "X-CSRF": "1" };
const EVERY = 2000;
const BURST = 20;
const MOST_ROWS = 60;
const MOST_MARKS = 240;

const $ = (id) => document.getElementById(id);

const hues = new Map();
const seen = { calls: 0, renewals: 0, token: null, expiresAt: 0, lifetime: 1 };

start();

async function start() {
  const answer = await fetch("/bff/user", { headers: CSRF });
  if (!answer.ok) return outside();
  const claims = Object.fromEntries((await answer.json()).map(({ type, value }) => [type, value]));
  inside(claims);
}

function outside() {
  if (sessionStorage.getItem("left")) $("farewell").textContent = "You are logged out, here and at the provider.";
  sessionStorage.removeItem("left");
  $("inside").hidden = $("who").hidden = true;
  $("outside").hidden = false;
}

function inside(claims) {
  $("name").textContent = claims.name ?? claims.sub;
  const logout = new URL(claims["bff:logout_url"], location.origin);
  logout.searchParams.set("returnUrl", "/");
  $("logout").href = logout;
  $("logout").addEventListener("click", () => sessionStorage.setItem("left", "yes"));
  $("cookies").textContent = `document.cookie = ${JSON.stringify(document.cookie)}`;
  $("session-end").textContent = within(Number(claims["bff:session_expires_in"]));
  $("who").hidden = $("inside").hidden = false;

  $("call").addEventListener("click", () => callOnce());
  $("burst").addEventListener("click", () => callManyTimes());
  watchSession({ onEnded: ended });
  setInterval(() => $("steady").checked && !document.hidden && callOnce(), EVERY);
  tick();
  callOnce();
}

// In another tab, say: there is nobody here any more, or somebody else.
function ended(reason) {
  if (reason === "logout") sessionStorage.setItem("left", "yes");
  location.reload();
}

async function callOnce() {
  const before = { ...seen };
  const left = (seen.expiresAt - performance.now()) / 1000;
  const answer = await call();
  if (!answer || !before.token || answer.token === before.token) return;
  say(left > 0.5
    ? `Renewed in the background, ${Math.round(left)} seconds before it ran out. No call had to wait.`
    : "It had run out. The next call waited for the renewal, and then went through with the new token.");
}

async function callManyTimes() {
  $("burst").disabled = true;
  const before = { ...seen };
  const expired = before.token !== null && performance.now() > before.expiresAt;
  const begun = performance.now();
  const answers = (await Promise.all(Array.from({ length: BURST }, () => call({ quietly: true })))).filter(Boolean);
  $("burst").disabled = false;
  if (answers.length < BURST) return;
  const last = answers.at(-1);
  row({
    status: `${BURST} \u00d7 200 OK`,
    token: last.token,
    left: last.expires_in,
    took: performance.now() - begun,
    renewed: before.token !== null && before.token !== last.token,
  });
  const renewals = seen.renewals - before.renewals;
  say(renewals > 0
    ? `${BURST} calls at once${expired ? " when it had run out" : ""}: ${renewals === 1 ? "one renewal" : `${renewals} renewals`} at the provider, and every call went through.`
    : `${BURST} calls at once, and none of them needed a renewal. Now switch the steady calls off, let it run out, and try again.`);
}

async function call({ quietly = false } = {}) {
  const begun = performance.now();
  let answer;
  try {
    answer = await fetch("/api/hello", { headers: CSRF });
  } catch {
    say("The gateway does not answer. Was the demo stopped?", true);
    return null;
  }
  const took = performance.now() - begun;
  if (!answer.ok) return refused(answer, took);
  const told = await answer.json();
  const renewed = seen.token !== null && seen.token !== told.token;
  seen.refreshesBefore ??= told.refreshes;
  Object.assign(seen, {
    calls: seen.calls + 1,
    renewals: Math.max(seen.renewals, told.refreshes - seen.refreshesBefore),
    token: told.token,
    expiresAt: begun + told.expires_in * 1000,
    lifetime: told.lifetime,
  });
  show(told);
  mark(told.token);
  if (!quietly) row({ status: `${answer.status} OK`, token: told.token, left: told.expires_in, took, renewed });
  return told;
}

async function refused(answer, took) {
  const code = answer.headers.get("Coatcheck-Error") ?? "";
  mark(null);
  row({ status: `${answer.status} ${code}`, took });
  if (answer.status === 401) {
    say("The session is over. Log in again to go on.", true);
    $("steady").checked = false;
  } else {
    say(`The call was refused: ${code || answer.status}.`, true);
  }
  return null;
}

function show(told) {
  $("fingerprint").replaceChildren(chip(told.token));
  $("calls").textContent = seen.calls;
  $("renewals").textContent = seen.renewals;
  const lines = [
    ["authorization", "Bearer ", `(fingerprint ${told.token})`],
    ["x-forwarded-host", told.headers["x-forwarded-host"] ?? ""],
    ["x-forwarded-proto", told.headers["x-forwarded-proto"] ?? ""],
    ["cookie", "", told.headers.cookie ? "present!" : "none: it stays at the counter"],
  ];
  $("received").replaceChildren(...lines.flatMap(([name, value, remark = ""]) => [
    element("b", name), `: ${value}`, element("i", remark), "\n",
  ]));
}

function row({ status, token, left, took, renewed }) {
  const cells = [new Date().toLocaleTimeString(), status, token ? chip(token) : "", left === undefined ? "" : `${Math.max(0, left).toFixed(0)} s`, `${took.toFixed(0)} ms`];
  const line = document.createElement("tr");
  cells.forEach((content, position) => {
    const cell = element("td", content);
    if (position > 2) cell.className = "number";
    line.append(cell);
  });
  if (renewed) {
    const badge = element("span", "renewed");
    badge.className = "renewed";
    line.children[2].append(badge);
  }
  $("rows").prepend(line);
  while ($("rows").children.length > MOST_ROWS) $("rows").lastChild.remove();
}

function mark(token) {
  const dot = element("span", "");
  if (token) dot.style.setProperty("--hue", hue(token));
  else dot.className = "refused";
  $("strip").append(dot);
  while ($("strip").children.length > MOST_MARKS) $("strip").firstChild.remove();
}

function tick() {
  if (seen.token) {
    const left = Math.max(0, (seen.expiresAt - performance.now()) / 1000);
    $("seconds").textContent = Math.ceil(left);
    $("unit").textContent = left > 0 ? (Math.ceil(left) === 1 ? "second left" : "seconds left") : "run out";
    const ring = $("ring").style;
    ring.setProperty("--hue", hue(seen.token));
    ring.setProperty("--part", (100 * Math.min(1, left / seen.lifetime)).toFixed(2));
    ring.setProperty("--shown", left > 0.05 ? 1 : 0);
    if (left === 0 && !$("steady").checked) say("It has run out. Nobody fetches a new one until somebody calls.");
  }
  requestAnimationFrame(tick);
}

function within(seconds) {
  const minutes = Math.max(1, Math.round(seconds / 60));
  return minutes >= 120 ? `in ${Math.round(minutes / 60)} hours` : `in ${minutes} minute${minutes === 1 ? "" : "s"}`;
}

function say(text, warn = false) {
  if ($("note").textContent === text) return;
  $("note").textContent = text;
  $("note").classList.toggle("warn", warn);
}

function chip(token) {
  const chip = element("span", `${token.slice(0, 4)} ${token.slice(4)}`);
  chip.className = "chip";
  chip.style.setProperty("--hue", hue(token));
  return chip;
}

function element(name, content) {
  const made = document.createElement(name);
  made.append(content);
  return made;
}

// The golden angle apart, in the order of their appearance: tokens that follow one another never look alike.
function hue(token) {
  if (!hues.has(token)) hues.set(token, (172 + hues.size * 137.508) % 360);
  return hues.get(token);
}
