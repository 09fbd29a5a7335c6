/**
 * Tells a page that its session ends. Pages load it from where coatcheck answers:
 *
 *     import { watchSession } from "/bff/session.js";
 *     watchSession({ onEnded: (reason) => location.reload() });
 *
 * However many tabs are open, one of them listens to the server, the one that holds a lock, and tells the others. A tab
 * that is closed, or crashes, loses its lock, and the next one listens.
 */

const EVENTS = new URL("events", import.meta.url);
const NAME = `coatcheck ${EVENTS.pathname}`; // of the lock and of the channel: an origin may have several applications
const WARN_BEFORE = 60; // seconds, as on the server
const TRUSTED = 60_000; // milliseconds for which a stream is taken to be alive, whatever the machine did meanwhile
const GONE = 30_000; // milliseconds after which a page that was about to go has stayed: it was a download, say
const [SOONEST, LATEST] = [1_000, 60_000]; // milliseconds between two attempts

/**
 * Watch the session of this page until it has ended.
 *
 * @param {object} listeners
 * @param {(seconds: number) => void} [listeners.onExpiring] It ends in so many seconds, unless it is used. May come again.
 * @param {(reason: string) => void} [listeners.onEnded] It is over. Comes once, and nothing after it.
 * @returns {() => void} Stops watching.
 */
export function watchSession({ onExpiring, onEnded } = {}) {
  /** What the server calls the session of this page. After a login in another tab, the browser's session is another. */
  let session;
  let source; // the stream, in the one tab that listens
  let listeningSince = 0;
  let failures = 0;
  let goneAt = 0; // a page that is still here then is not on its way out
  let tabs, paused;
  const stopped = new AbortController();

  async function begin() {
    tabs = new BroadcastChannel(NAME);
    tabs.onmessage = ({ data }) => hear(data);
    paused = new AbortController();
    const { signal } = paused;
    let now;
    while (!(now = await look()) && !signal.aborted) await moment();
    if (signal.aborted) return;
    tell({}); // pages of an older session learn that there is a new one
    if (navigator.locks) {
      const turn = new Promise((resolve) => signal.addEventListener("abort", resolve));
      navigator.locks.request(NAME, { signal }, () => (listen(), turn)).catch(() => {}); // paused before its turn came
    } else listen(); // an insecure origin, or an old browser: each tab for itself
    if (now.expires_in <= WARN_BEFORE) onExpiring?.(now.expires_in);
  }

  /** Leave the others alone: the page goes, perhaps to come back from the browser's cache. */
  function pause() {
    paused.abort();
    source?.close();
    source = undefined;
    tabs.close();
  }

  function stop() {
    stopped.abort();
    pause();
  }

  /** Ask how it stands; nothing is returned when nobody can say. Only a 401 of coatcheck's own is taken for an end. */
  async function look() {
    const { signal } = paused;
    const answer = await fetch(EVENTS, { headers: { Accept: "application/json" }, signal }).catch(() => undefined);
    const over = answer?.status === 401 && answer.headers.has("Coatcheck-Error");
    const now = answer?.ok ? await answer.json().catch(() => undefined) : undefined;
    if (signal.aborted || !(over || now?.session)) return undefined;
    session ??= now?.session;
    if (over) tell({ ended: "expired" });
    else if (now.session !== session) tell({ ended: "replaced" });
    return now;
  }

  function listen() {
    const { signal } = paused;
    source?.close();
    const stream = (source = new EventSource(EVENTS));
    listeningSince = Date.now();
    stream.onopen = () => {
      failures = 0;
      look(); // it is the stream of whoever is logged in now
    };
    stream.onerror = async () => {
      if (stream.readyState !== EventSource.CLOSED) return; // the browser comes back by itself
      await look();
      await moment();
      if (source === stream && !signal.aborted) listen();
    };
    stream.addEventListener("expiring", ({ data }) => tell(JSON.parse(data)));
    stream.addEventListener("ended", ({ data }) => tell({ ended: JSON.parse(data).reason }));
  }

  function tell(news) {
    const message = { ...news, session };
    tabs.postMessage(message);
    hear(message);
  }

  function hear(message) {
    if (message.session !== session) look(); // news of another session are none of ours, unless ours has been replaced
    else if (message.ended) {
      stop();
      setTimeout(() => onEnded?.(message.ended), goneAt - Date.now());
    } else if (message.expires_in !== undefined) onExpiring?.(message.expires_in);
    else if (message.awake && source && Date.now() - listeningSince > TRUSTED) listen();
  }

  /** The page goes, to the logout perhaps: acting on its own success would stop it half-way. The others are told. */
  function leave() {
    goneAt = Date.now() + GONE;
  }

  /** A machine that slept has dead streams that nobody told it of. */
  function wake() {
    if (paused.signal.aborted) return;
    look();
    tell({ awake: true });
  }

  function moment() {
    const most = Math.min(LATEST, SOONEST * 2 ** failures++);
    return new Promise((resolve) => setTimeout(resolve, most * (0.5 + Math.random() / 2)));
  }

  const { signal } = stopped;
  addEventListener("beforeunload", leave, { signal });
  addEventListener("pagehide", pause, { signal });
  addEventListener("pageshow", (event) => event.persisted && begin(), { signal });
  addEventListener("online", wake, { signal });
  document.addEventListener("visibilitychange", () => document.hidden || wake(), { signal });
  begin();
  return stop;
}
