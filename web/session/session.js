// Portcullis in the browser: knows when the session ends, warns before it does, and tells the application why it did.
// SPDX-License-Identifier: Apache-2.0

/** The version of this module, that of the gate which serves it. */
export const VERSION = '0.1.0';

/** The codes by which the gate says that a session is over. */
export const ENDING_CODES = Object.freeze([
  'idle_timeout',
  'session_ended',
  'logged_out',
  'user_blocked',
  'revoked',
  'reauthentication_required',
]);

/** The codes that are about the token alone: another one of the same session may be good. */
export const TOKEN_CODES = Object.freeze(['token_expired', 'invalid_token', 'token_lifetime']);

/** What is known before the gate has said anything, and on a server. */
export const UNKNOWN = Object.freeze({
  phase: 'unknown',
  code: null,
  reason: null,
  idle: null,
  absolute: null,
  endsAt: null,
});

const SECOND = 1000;
const LONGEST = 400 * 86_400;
const HEARTBEAT = 10 * SECOND;
// A timer that fires so much too late has slept. A busy page is late by less.
const ASLEEP = 3 * SECOND;
// What is known for no longer than this is not asked for again on focus.
const FRESH = 5 * SECOND;
// `Date` tells whole seconds, here and in what it is compared with.
const PRECISION = 2 * SECOND;
const PATIENCE = 10 * SECOND;
const PAUSE = 500;
const LONGEST_PAUSE = 30 * SECOND;
const NOTHING = Object.freeze({ at: 0, idleEndsAt: null, absoluteEndsAt: null });

/** Starts to watch over a session. See the README for the options. */
export function createSession(options) {
  return new Session(options);
}

/** The gate was asked and did not answer as it should. */
export class SessionError extends Error {
  name = 'SessionError';

  constructor(message, { status = null, code = null, cause } = {}) {
    super(message, { cause });
    this.status = status;
    this.code = code;
  }
}

class SessionEvent extends Event {
  constructor(type, detail, cancelable = false) {
    super(type, { cancelable });
    this.detail = Object.freeze(detail);
  }
}

class Session extends EventTarget {
  #base;
  #route;
  #getToken;
  #credentials;
  #fetch;
  #warnBefore;
  #page;
  #channel = null;
  #dialog = null;
  #stop = new AbortController();

  // What the gate said last, here or to another tab. Deadlines are in wall time: timers stand still while a machine sleeps.
  #seen = NOTHING;
  #phase = 'unknown';
  #code = null;
  #reason = null;
  #dismissed = false;
  #endedAt = 0;
  #state = UNKNOWN;
  #published = UNKNOWN;

  // Whose session it is.
  #subject = '';
  #hasSessionId = false;
  #started = null;

  #timer;
  #expected = 0;
  #subscribers = 0;
  #checking = null;
  #askAt = 0;
  #failures = 0;
  #elsewhere = null;
  // What is to be added to this clock for that of the gate.
  #skew = null;

  #track;
  #touchedAt = 0;
  #idleLimit = null;
  #continueAt = 0;

  constructor({
    base = '',
    route,
    getToken,
    warnBefore = 60,
    trackActivity = false,
    dialog = true,
    strings,
    channel,
    credentials = 'same-origin',
    fetch = (...request) => globalThis.fetch(...request),
    onSessionEnded,
    onTokenRefused,
    onWarning,
    onSignIn,
  } = {}) {
    super();
    if (!(warnBefore >= 0 && warnBefore < LONGEST)) throw new RangeError('warnBefore is a number of seconds');
    this.#base = base.replace(/\/+$/, '');
    this.#route = route;
    this.#getToken = getToken;
    this.#credentials = credentials;
    this.#fetch = fetch;
    this.#warnBefore = warnBefore * SECOND;
    this.#track = trackActivity;
    this.#page = globalThis.document;

    if (onSessionEnded) this.addEventListener('ended', ({ detail }) => onSessionEnded(detail.code, detail));
    if (onTokenRefused) this.addEventListener('refused', ({ detail }) => onTokenRefused(detail.code, detail));
    if (onWarning) {
      this.addEventListener('warning', (event) => {
        if (onWarning(event.detail) === false) event.preventDefault();
      });
    }
    if (!this.#page) return;

    if (dialog) {
      this.#dialog = new WarningDialog(this.#page, strings, dialog === true ? {} : dialog, {
        stay: () => this.#insist(() => this.continue()),
        logOut: () => this.#insist(() => this.logout()),
        dismiss: () => this.#dismiss(),
        signIn: onSignIn,
      });
    }
    this.#watchPage();
    if (channel !== false && globalThis.BroadcastChannel) {
      this.#channel = new BroadcastChannel(channel ?? ['portcullis-session', this.#origin(), route].filter(Boolean).join(' '));
      this.#channel.onmessage = ({ data }) => this.#hear(data);
    }
    queueMicrotask(() => this.#ask());
  }

  /** What is known now. The object stays the same until something changes. */
  get state() {
    if (!this.#stop.signal.aborted) this.#state = this.#snapshot();
    return this.#state;
  }

  /**
   * Calls `listener` whenever `state` has changed, every second while an end is known. Returns what ends that.
   *
   * Bound, so that it can be handed to `useSyncExternalStore` as it is.
   */
  subscribe = (listener) => {
    const heard = () => listener();
    this.addEventListener('change', heard);
    this.#subscribers += 1;
    this.#arm();
    return () => {
      if (heard.done) return;
      heard.done = true;
      this.removeEventListener('change', heard);
      this.#subscribers -= 1;
    };
  };

  /**
   * As the browser's `fetch`, with the token added and the answer read. Requests to other origins than the gate's pass untouched.
   *
   * `background: true` says that the person did nothing: the request does not extend the session.
   */
  fetch = async (input, { background = false, ...init } = {}) => {
    if (!this.#covers(input instanceof Request ? input.url : String(input))) return this.#fetch(input, init);
    // A stream can be sent once.
    const repeatable = !(init.body instanceof globalThis.ReadableStream);
    const build = () => {
      const request = new Request(input instanceof Request ? input.clone() : input, init);
      if (background) request.headers.set('Portcullis-Activity', 'background');
      return request;
    };
    const { response } = await this.#exchange(build, repeatable);
    return response;
  };

  /**
   * Reads an answer that the application fetched by itself, and returns it: a `Response`, or anything with `status`, `headers`
   * and, for refusals, `data`, as axios has it. `at`: when it was asked for, in milliseconds.
   */
  observe(response, { at = Date.now() } = {}) {
    this.#read(response, at, this.#subject).then((refusal) => refusal && this.#refused(refusal));
    return response;
  }

  /** Asks the gate how the session is, without extending it. */
  check() {
    this.#checking ??= this.#call('GET', 'session').finally(() => {
      this.#checking = null;
      this.#arm();
    });
    return this.#checking;
  }

  /** Extends the session. */
  continue() {
    return this.#call('POST', 'session/continue');
  }

  /** Ends the session at the gate. */
  async logout() {
    await this.#call('POST', 'logout');
    this.#end('logged_out', true);
  }

  /** Stops watching. Nothing is told to the gate. */
  close() {
    if (this.#stop.signal.aborted) return;
    this.#state = this.#snapshot();
    this.#stop.abort();
    clearTimeout(this.#timer);
    this.#channel?.close();
    this.#dialog?.remove();
  }

  // ── To the gate and back ──────────────────────────────────────────────────────────────────────────────────────────

  async #call(method, path) {
    const query = this.#route && path !== 'logout' ? `?route=${encodeURIComponent(this.#route)}` : '';
    const url = `${this.#base}/.portcullis/${path}${query}`;
    const build = () =>
      new Request(url, {
        method,
        cache: 'no-store',
        credentials: this.#credentials,
        redirect: 'error',
        headers: { accept: 'application/json' },
        signal: AbortSignal.timeout(PATIENCE),
      });
    const { response, refusal } = await this.#exchange(build, true, path);
    if (!response) return this.state;
    if (!response.ok) {
      throw new SessionError(`the gate answered ${response.status}`, { status: response.status, code: refusal ?? null });
    }
    return this.state;
  }

  /** Sends, reads what the answer says of the session, and sends once more if only the token was refused. */
  async #exchange(build, repeatable, own) {
    let token = await this.#token({ fresh: false });
    if (own && this.#getToken && !token) {
      // Nobody is logged in here, or nobody can tell.
      this.#forget();
      return {};
    }
    let sent = await this.#send(build(), token, own);
    if (TOKEN_CODES.includes(sent.refusal) && this.#getToken && repeatable) {
      const code = sent.refusal;
      const fresh = await this.#token({ fresh: true, code }).catch(() => null);
      if (fresh && fresh !== token) {
        token = fresh;
        sent = await this.#send(build(), token, own);
      }
    }
    if (sent.refusal) this.#refused(sent.refusal, own);
    return sent;
  }

  async #send(request, token, own) {
    if (token && !request.headers.has('authorization')) request.headers.set('Authorization', `Bearer ${token}`);
    const subject = this.#subject;
    // From its start: the gate judges a request when it arrives, however long the answer takes then.
    const at = Date.now();
    const response = await this.#fetch(request).catch((cause) => {
      throw own ? new SessionError('the gate cannot be reached', { cause }) : cause;
    });
    return { response, refusal: await this.#read(response, at, subject, own) };
  }

  async #token(reason) {
    if (!this.#getToken) return null;
    const token = (await this.#getToken(reason)) ?? null;
    if (token) this.#recognise(token);
    return token;
  }

  /** Learns from an answer. Returns the code of a refusal. */
  async #read(response, at, subject, own) {
    if (this.#stop.signal.aborted || (response.url && !this.#covers(response.url))) return null;
    const field = reader(response.headers);
    if (response.status >= 400) {
      const code = await refusalCode(response, field);
      // A late answer to a token of somebody who is no longer logged in here says nothing of who is.
      return subject === this.#subject ? code : null;
    }
    if (own && own !== 'logout') {
      const said = await response.json().catch((cause) => {
        throw new SessionError('the gate did not answer in JSON', { status: response.status, cause });
      });
      if (subject !== this.#subject) return null;
      const date = Date.parse(field('date') ?? '');
      if (!Number.isNaN(date)) this.#skew = date - Date.now();
      this.#idleLimit = seconds(said.idle_limit);
      this.#startedAt(typeof said.started === 'string' ? said.started : null);
      this.#learn(at, seconds(said.idle), seconds(said.absolute));
      return null;
    }
    const idle = seconds(field('portcullis-session-idle'));
    const absolute = seconds(field('portcullis-session-absolute'));
    if (idle === null && absolute === null) return null;
    if (subject !== this.#subject || this.#isFromCache(field('date'), at)) return null;
    this.#learn(at, idle, absolute);
    return null;
  }

  /** Whether an answer is older than its request: the browser's cache keeps header fields too. */
  #isFromCache(date, at) {
    const written = Date.parse(date ?? '');
    return this.#skew !== null && written + PRECISION < at + this.#skew;
  }

  #refused(code, own) {
    if (ENDING_CODES.includes(code)) this.#end(code);
    else if (TOKEN_CODES.includes(code)) this.dispatchEvent(new SessionEvent('refused', { code }));
    // The cookie is gone, and with it the session, as far as this browser goes.
    else if (code === 'missing_token' && own && !this.#getToken && this.#seen.at > 0) this.#end(this.#elsewhere ?? code);
  }

  #origin() {
    return new URL(`${this.#base}/`, this.#page?.baseURI).origin;
  }

  #covers(url) {
    try {
      return new URL(url, this.#page?.baseURI).origin === this.#origin();
    } catch {
      return false;
    }
  }

  // ── Whose session it is ───────────────────────────────────────────────────────────────────────────────────────────

  /** Tabs share what they know of one session only. A token tells which; otherwise the gate's `started` does. */
  get #identity() {
    if (this.#hasSessionId) return this.#subject;
    return this.#started ? `${this.#subject}@${this.#started}` : null;
  }

  #recognise(token) {
    const claims = readClaims(token);
    const session = claims.sid ?? Object.entries(claims).find(([name]) => name.endsWith('/sid'))?.[1];
    const subject = claims.sub === undefined ? '' : digest(JSON.stringify([claims.iss, claims.sub, session]));
    if (subject === this.#subject) return;
    this.#forget();
    this.#subject = subject;
    this.#hasSessionId = session !== undefined;
  }

  #startedAt(started) {
    if (this.#started && started !== this.#started && !this.#hasSessionId) this.#forget();
    this.#started = started;
  }

  #forget() {
    this.#seen = NOTHING;
    this.#started = null;
    this.#subject = '';
    this.#hasSessionId = false;
    this.#dismissed = false;
    this.#elsewhere = null;
    this.#idleLimit = null;
    this.#enter('unknown');
  }

  // ── What is known, and what follows ───────────────────────────────────────────────────────────────────────────────

  #learn(at, idle, absolute) {
    if (this.#phase === 'ended') {
      // What was on its way when the session ended revives nothing.
      if (at <= this.#endedAt) return;
      this.#seen = NOTHING;
      this.#dismissed = false;
    }
    const before = this.#seen;
    this.#seen = merge(before, {
      at,
      idleEndsAt: idle === null ? null : at + idle * SECOND,
      absoluteEndsAt: absolute === null ? null : at + absolute * SECOND,
    });
    this.#failures = 0;
    this.#elsewhere = null;
    if (idle !== null && !(idle <= this.#idleLimit)) this.#idleLimit = idle;
    if (this.#phase === 'ended' || this.#phase === 'unknown') this.#enter('active');
    if (moved(before.idleEndsAt, this.#seen.idleEndsAt) || moved(before.absoluteEndsAt, this.#seen.absoluteEndsAt)) {
      this.#tell({ type: 'seen', ...this.#seen });
    }
    this.#judge(true);
    // The gate tells a session's start once it has a record of it.
    if (this.#identity === null) this.#ask();
  }

  /** Nobody is warned, and nothing ends, by this clock alone: `confirmed` says that the gate spoke just now. */
  #judge(confirmed) {
    if (this.#phase !== 'active' && this.#phase !== 'warning') return this.#arm();
    const now = Date.now();
    const warnsAt = this.#warnsAt();
    if (this.#phase === 'warning' && now < warnsAt - SECOND) {
      this.#enter('active');
    } else if (now >= warnsAt) {
      const reason = now >= this.#idleWarnsAt() && this.#seen.idleEndsAt === this.#endsAt() ? 'idle' : 'absolute';
      if (confirmed || this.#phase === 'warning') this.#warn(confirmed ? reason : this.#reason, now);
      if (!confirmed && (reason !== this.#reason || now >= this.#endsAt())) this.#ask();
    }
    if (now < this.#absoluteWarnsAt() - SECOND) this.#dismissed = false;
    if (this.#track) this.#continueIfTouched(now);
    this.#publish();
    return this.#arm();
  }

  #warn(reason, now) {
    const end = reason === 'idle' ? this.#seen.idleEndsAt : this.#seen.absoluteEndsAt;
    const seconds = Math.max(0, Math.ceil((end - now) / SECOND));
    if (this.#phase === 'warning' && this.#reason === reason) {
      this.#dialog?.update(seconds);
      return;
    }
    this.#phase = 'warning';
    this.#reason = reason;
    const shown = this.dispatchEvent(new SessionEvent('warning', { reason, seconds }, true));
    if (this.#stop.signal.aborted) return;
    if (shown && !(reason === 'absolute' && this.#dismissed)) this.#dialog?.show(reason, seconds);
    else this.#dialog?.hide();
  }

  #dismiss() {
    this.#dismissed = true;
    this.#dialog?.hide();
    this.#tell({ type: 'dismissed' });
  }

  #end(code, requested = false) {
    if (this.#phase === 'ended') return;
    const now = Date.now();
    this.#code = code;
    // Whoever asks first hears of the idleness, and others only that it is over.
    if (code === 'session_ended') this.#code = this.#elsewhere ?? (now >= (this.#seen.idleEndsAt ?? Infinity) ? 'idle_timeout' : code);
    this.#endedAt = now;
    this.#enter('ended');
    this.#tell({ type: 'ended', code: this.#code });
    this.dispatchEvent(new SessionEvent('ended', { code: this.#code, requested }));
  }

  #enter(phase) {
    this.#phase = phase;
    this.#reason = null;
    if (phase !== 'ended') this.#code = null;
    this.#dialog?.hide();
    this.#publish();
  }

  /** Half an idle limit that is short is for working undisturbed. */
  #idleWarnsAt() {
    const before = Math.min(this.#warnBefore, ((this.#idleLimit ?? Infinity) * SECOND) / 2);
    return (this.#seen.idleEndsAt ?? Infinity) - before;
  }

  #absoluteWarnsAt() {
    return (this.#seen.absoluteEndsAt ?? Infinity) - this.#warnBefore;
  }

  #warnsAt() {
    return Math.min(this.#idleWarnsAt(), this.#absoluteWarnsAt());
  }

  #endsAt() {
    return Math.min(this.#seen.idleEndsAt ?? Infinity, this.#seen.absoluteEndsAt ?? Infinity);
  }

  #publish() {
    const before = this.#published;
    this.#published = this.state;
    if (this.#published !== before) this.dispatchEvent(new SessionEvent('change', this.#published));
  }

  #snapshot() {
    const now = Date.now();
    const over = this.#phase === 'ended' || this.#phase === 'unknown';
    const left = (end) => (over || end === null ? null : Math.max(0, Math.ceil((end - now) / SECOND)));
    const endsAt = this.#endsAt();
    const next = {
      phase: this.#phase,
      code: this.#code,
      reason: this.#reason,
      idle: left(this.#seen.idleEndsAt),
      absolute: left(this.#seen.absoluteEndsAt),
      endsAt: over || endsAt === Infinity ? null : endsAt,
    };
    return Object.keys(next).every((key) => next[key] === this.#state[key]) ? this.#state : Object.freeze(next);
  }

  // ── Time ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  #arm() {
    clearTimeout(this.#timer);
    if (this.#stop.signal.aborted || !this.#page || this.#phase === 'ended') return;
    const now = Date.now();
    const endsAt = this.#endsAt();
    let next = now + HEARTBEAT;
    // An answer that is awaited arms it anew.
    if (!this.#checking && this.#phase !== 'unknown') {
      next = Math.min(next, Math.max(this.#phase === 'active' ? this.#warnsAt() : endsAt, this.#askAt));
    }
    if (this.#phase === 'warning' || (this.#subscribers > 0 && endsAt !== Infinity)) {
      next = Math.min(next, now + (endsAt > now ? (endsAt - now) % SECOND || SECOND : SECOND));
    }
    if (this.#track && this.#idleLimit !== null) next = Math.min(next, Math.max(this.#quarter(), this.#continueAt));
    this.#expected = Math.max(next, now + 20);
    this.#timer = setTimeout(() => this.#tick(), this.#expected - now);
  }

  #tick() {
    const late = Date.now() - this.#expected;
    // Timers of a hidden page are late as a rule.
    if ((late > ASLEEP && this.#page.visibilityState === 'visible') || late < -SECOND) this.#wake(late);
    this.#judge(false);
  }

  /** The clock was set, or the machine slept: what was computed from the clock before may be wrong. */
  #wake(late) {
    if (this.#phase === 'unknown') return;
    if (late < 0) {
      this.#seen = { ...this.#seen, at: 0 };
      this.#continueAt = 0;
    }
    this.#skew = null;
    this.#askAt = 0;
    this.#ask();
  }

  #watchPage() {
    const window = this.#page.defaultView;
    const options = { signal: this.#stop.signal };
    const look = (force) => {
      if (this.#page.visibilityState !== 'visible' || this.#phase === 'ended') return;
      // Whether anybody is logged in, the application knows.
      if (this.#phase === 'unknown' && !force) return;
      const age = Date.now() - this.#seen.at;
      if (age < 0) {
        this.#wake(age);
      } else if (force || age > FRESH) {
        this.#askAt = 0;
        this.#ask();
      }
      this.#judge(false);
    };
    this.#page.addEventListener('visibilitychange', () => look(false), options);
    window.addEventListener('focus', () => look(false), options);
    window.addEventListener('pageshow', ({ persisted }) => look(persisted), options);
    window.addEventListener('online', () => look(true), options);
    if (!this.#track) return;
    for (const type of ['pointerdown', 'keydown', 'input', 'wheel', 'touchmove']) {
      window.addEventListener(type, () => this.#touched(), { ...options, capture: true, passive: true });
    }
  }

  /** Asks in the background. What fails is tried again, and changes nothing. */
  #ask() {
    const now = Date.now();
    if (this.#checking || now < this.#askAt || this.#stop.signal.aborted || this.#phase === 'ended') return;
    this.#askAt = now + PAUSE;
    this.check().catch(() => {
      this.#failures += 1;
      this.#askAt = Date.now() + Math.min(SECOND * 2 ** (this.#failures - 1), LONGEST_PAUSE);
      this.#arm();
    });
  }

  /** Does what the person asked for in the dialog, again and again until it is done or no longer of use. */
  async #insist(act) {
    this.#dialog.busy(true);
    for (let pause = SECOND; this.#phase === 'warning'; pause = Math.min(pause * 2, HEARTBEAT)) {
      try {
        await act();
        break;
      } catch {
        this.#dialog.trouble();
        await new Promise((resolve) => setTimeout(resolve, pause));
      }
    }
    this.#dialog.busy(false);
  }

  // ── Work in the page itself, if it counts ─────────────────────────────────────────────────────────────────────────

  #touched() {
    // In the dialog, the buttons say what is meant.
    if (this.#phase === 'warning') return;
    const isFirst = this.#touchedAt <= this.#activeAt();
    this.#touchedAt = Date.now();
    if (isFirst) this.#arm();
  }

  /** When a quarter of the idle limit has passed since the gate last heard of the person. */
  #quarter() {
    if (this.#touchedAt <= this.#activeAt() || this.#phase !== 'active') return Infinity;
    return this.#activeAt() + (this.#idleLimit * SECOND) / 4;
  }

  #activeAt() {
    return (this.#seen.idleEndsAt ?? Infinity) - this.#idleLimit * SECOND;
  }

  #continueIfTouched(now) {
    if (this.#idleLimit === null || now < this.#quarter() || now < this.#continueAt) return;
    this.#continueAt = now + (this.#idleLimit * SECOND) / 4;
    this.continue().catch(() => {
      this.#continueAt = Math.min(this.#continueAt, Date.now() + SECOND);
    });
  }

  // ── Other tabs ────────────────────────────────────────────────────────────────────────────────────────────────────

  #tell(message) {
    const identity = this.#identity;
    if (identity !== null && !this.#stop.signal.aborted) this.#channel?.postMessage({ portcullis: 1, identity, ...message });
  }

  #hear(message) {
    if (message?.portcullis !== 1 || message.identity !== this.#identity || this.#identity === null) return;
    if (this.#phase === 'ended') return;
    if (message.type === 'seen' && isPlausible(message, Date.now())) {
      const { at, idleEndsAt, absoluteEndsAt } = message;
      this.#seen = merge(this.#seen, { at, idleEndsAt, absoluteEndsAt });
      if (this.#phase === 'unknown') this.#enter('active');
      this.#judge(false);
    } else if (message.type === 'dismissed' && this.#reason === 'absolute') {
      this.#dismissed = true;
      this.#dialog?.hide();
    } else if (message.type === 'ended' && ENDING_CODES.includes(message.code)) {
      this.#elsewhere = message.code;
      const ask = () => {
        this.#askAt = 0;
        this.#ask();
      };
      // An answer that is under way may be older than the end.
      if (this.#checking) this.#checking.then(ask, ask);
      else ask();
    }
  }
}

function reader(headers) {
  if (typeof headers?.get === 'function') return (name) => headers.get(name) ?? null;
  return (name) => headers?.[name] ?? null;
}

async function refusalCode(response, field) {
  if (!/^application\/problem\+json\b/i.test(field('content-type') ?? '')) return null;
  try {
    const problem = 'data' in response ? response.data : await response.clone().json();
    return typeof problem?.code === 'string' ? problem.code : null;
  } catch {
    return null;
  }
}

function seconds(value) {
  if (value === null || value === undefined || value === '') return null;
  const number = Number(value);
  return Number.isInteger(number) && number >= 0 && number <= LONGEST ? number : null;
}

/** Requests overtake each other, and activity only ever puts the idle limit off: of two close in time, the later end is right. */
function merge(known, said) {
  const [first, last] = said.at < known.at ? [said, known] : [known, said];
  if (last.at - first.at > PATIENCE || first.idleEndsAt === null || last.idleEndsAt === null) return last;
  return { ...last, idleEndsAt: Math.max(first.idleEndsAt, last.idleEndsAt) };
}

function moved(before, after) {
  return before === null || after === null ? before !== after : Math.abs(after - before) >= 500;
}

function isPlausible({ at, idleEndsAt, absoluteEndsAt }, now) {
  const isEnd = (end) => end === null || (Number.isFinite(end) && end >= at && end - at <= LONGEST * SECOND);
  return Number.isFinite(at) && at <= now + SECOND && isEnd(idleEndsAt) && isEnd(absoluteEndsAt);
}

/** The claims of a JWT, unverified: they only tell sessions apart. */
function readClaims(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')), (byte) => byte.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    return claims !== null && typeof claims === 'object' ? claims : {};
  } catch {
    return {};
  }
}

/** Two hashes by FNV-1a, forwards and backwards, so that claims do not travel between tabs as they are. Not for secrets. */
function digest(text) {
  let [a, b] = [0x811c9dc5, 0x01000193];
  for (let index = 0; index < text.length; index += 1) {
    a = Math.imul(a ^ text.charCodeAt(index), 0x01000193);
    b = Math.imul(b ^ text.charCodeAt(text.length - 1 - index), 0x01000193);
  }
  return `${(a >>> 0).toString(16)}-${(b >>> 0).toString(16)}`;
}

// ── The dialog ──────────────────────────────────────────────────────────────────────────────────────────────────────

const STRINGS = {
  idleTitle: 'Are you still there?',
  idleText: 'You have not been active for a while, so you are about to be signed out.',
  absoluteTitle: 'Your session ends soon',
  absoluteText: 'You will have to sign in again, however active you are. Please save your work.',
  timeLeft: (left) => (left === 1 ? '1 second left' : `${left} seconds left`),
  clock: (left) => `${Math.floor(left / 60)}:${String(left % 60).padStart(2, '0')}`,
  stay: 'Stay signed in',
  logOut: 'Log out',
  signIn: 'Sign in again',
  dismiss: 'OK',
  unreachable: 'The server cannot be reached. Trying again …',
};

// Said aloud when so many seconds are left: often enough to act on, not every second.
const SAID_ALOUD = [300, 120, 60, 30, 20, 10, 5];

class WarningDialog {
  #page;
  #strings;
  #options;
  #actions;
  #parts = null;
  #reason = null;
  #isOpen = false;
  #last = Infinity;
  #selection = null;

  constructor(page, strings, options, actions) {
    this.#page = page;
    this.#strings = strings;
    this.#options = options;
    this.#actions = actions;
  }

  show(reason, left) {
    const parts = (this.#parts ??= this.#build());
    this.#reason = reason;
    this.#last = left;
    const say = this.#speaker();
    const idle = reason === 'idle';
    parts.title.textContent = say(idle ? 'idleTitle' : 'absoluteTitle', left);
    parts.text.textContent = say(idle ? 'idleText' : 'absoluteText', left);
    parts.primary.textContent = say(idle ? 'stay' : this.#actions.signIn ? 'signIn' : 'dismiss', left);
    parts.dismiss.textContent = say('dismiss', left);
    parts.dismiss.hidden = idle || !this.#actions.signIn;
    parts.logOut.textContent = say('logOut', left);
    parts.trouble.hidden = true;
    parts.aloud.textContent = '';
    parts.ring.style.setProperty('--_of', String(Math.max(left, 1)));
    if (!this.#isOpen) this.#selection = this.#rememberSelection();
    this.#isOpen = true;
    this.update(left);
    this.#open();
    // A key that was meant for the page must do no harm. "Stay signed in" is what somebody who types wants; leading them away
    // from what they type is not.
    (idle ? parts.primary : parts.title).focus();
  }

  update(left) {
    if (!this.#isOpen) return;
    if (!this.#parts.host.isConnected) this.#open();
    const parts = this.#parts;
    const say = this.#speaker();
    const text = say('timeLeft', left);
    parts.clock.textContent = say('clock', left);
    parts.left.textContent = text;
    parts.ring.style.setProperty('--_left', String(left));
    if (SAID_ALOUD.some((step) => left <= step && step < this.#last)) parts.aloud.textContent = text;
    this.#last = left;
  }

  busy(isBusy) {
    if (!this.#parts) return;
    // Not `disabled`: focus would be lost.
    for (const button of [this.#parts.primary, this.#parts.logOut]) button.setAttribute('aria-disabled', String(isBusy));
    if (!isBusy) this.#parts.trouble.hidden = true;
  }

  trouble() {
    this.#parts.trouble.textContent = this.#speaker()('unreachable', this.#last);
    this.#parts.trouble.hidden = false;
  }

  hide() {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    // Gives the focus back to where it was; fields keep their caret, editable elements do not.
    this.#parts.dialog.close();
    this.#restoreSelection();
  }

  remove() {
    this.hide();
    this.#parts?.host.remove();
  }

  #open() {
    const { host, dialog } = this.#parts;
    if (!host.isConnected) {
      if (dialog.open) dialog.close();
      (this.#options.container ?? this.#page.body).append(host);
    }
    if (!dialog.open) dialog.showModal();
  }

  #speaker() {
    const own = typeof this.#strings === 'function' ? this.#strings() : this.#strings;
    return (name, left) => {
      const text = own?.[name] ?? STRINGS[name];
      return typeof text === 'function' ? text(left) : text;
    };
  }

  #rememberSelection() {
    const active = this.#page.activeElement;
    const selection = this.#page.getSelection();
    if (!active?.isContentEditable || !selection?.rangeCount) return null;
    return { active, range: selection.getRangeAt(0).cloneRange() };
  }

  #restoreSelection() {
    const kept = this.#selection;
    this.#selection = null;
    if (!kept?.active.isConnected || this.#page.activeElement !== kept.active) return;
    const selection = this.#page.getSelection();
    selection.removeAllRanges();
    selection.addRange(kept.range);
  }

  #build() {
    const make = (name, attributes, ...children) => {
      const element = this.#page.createElement(name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      element.append(...children);
      return element;
    };
    const host = make('portcullis-session', {});
    if (!this.#strings) host.lang = 'en';
    const root = host.attachShadow({ mode: 'open' });
    style(root, this.#page);

    const title = make('h2', { id: 'title', part: 'title', tabindex: '-1' });
    const text = make('p', { id: 'text', part: 'text' });
    const left = make('p', { id: 'left', class: 'unseen' });
    const aloud = make('p', { class: 'unseen', role: 'status' });
    const trouble = make('p', { class: 'trouble', part: 'trouble', role: 'alert', hidden: '' });
    const clock = make('span', { part: 'time' });
    const ring = make('div', { class: 'ring', part: 'ring', 'aria-hidden': 'true' }, circle(this.#page), clock);
    const primary = make('button', { type: 'button', class: 'primary', part: 'button primary' });
    const dismiss = make('button', { type: 'button', part: 'button' });
    const logOut = make('button', { type: 'button', part: 'button' });
    const dialog = make(
      'dialog',
      { part: 'dialog', role: 'alertdialog', 'aria-labelledby': 'title', 'aria-describedby': 'text left' },
      make('div', { class: 'content' }, ring, make('div', { class: 'words' }, title, text, left, trouble)),
      make('div', { class: 'buttons', part: 'buttons' }, primary, dismiss, logOut),
      aloud,
    );
    root.append(dialog);

    const isBusy = () => primary.getAttribute('aria-disabled') === 'true';
    const answer = () => (this.#reason === 'idle' ? this.#actions.stay() : this.#actions.dismiss());
    primary.addEventListener('click', () => {
      if (isBusy()) return;
      if (this.#reason === 'absolute' && this.#actions.signIn) this.#actions.signIn();
      else answer();
    });
    dismiss.addEventListener('click', () => this.#actions.dismiss());
    logOut.addEventListener('click', () => isBusy() || this.#actions.logOut());
    // Escape is a sign that somebody is there, so it keeps them signed in: a dialog that only went away would leave them to be
    // signed out without a word.
    dialog.addEventListener('cancel', (event) => {
      event.preventDefault();
      if (!isBusy()) answer();
    });
    // Browsers close a dialog that refuses twice. What it asks is still open.
    dialog.addEventListener('close', () => {
      if (!this.#isOpen || dialog.open) return;
      this.#open();
      if (!isBusy()) answer();
    });
    // Shortcuts of the page are not meant while it is inert.
    for (const type of ['keydown', 'keyup', 'keypress']) dialog.addEventListener(type, (event) => event.stopPropagation());
    return { host, dialog, title, text, left, aloud, trouble, clock, ring, primary, dismiss, logOut };
  }
}

function circle(page) {
  const make = (name, attributes) => {
    const element = page.createElementNS('http://www.w3.org/2000/svg', name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const svg = make('svg', { viewBox: '0 0 64 64' });
  const shape = { cx: '32', cy: '32', r: '28', pathLength: '100' };
  svg.append(make('circle', { ...shape, class: 'track' }), make('circle', { ...shape, class: 'rest' }));
  return svg;
}

/** A constructed sheet, which a strict Content-Security-Policy allows. */
function style(root, page) {
  try {
    const sheet = new page.defaultView.CSSStyleSheet();
    sheet.replaceSync(CSS);
    root.adoptedStyleSheets = [sheet];
  } catch {
    const element = page.createElement('style');
    element.textContent = CSS;
    root.append(element);
  }
}

const CSS = `
:host {
  all: initial;
}

dialog {
  --_background: var(--portcullis-background, #ffffff);
  --_color: var(--portcullis-color, #16181d);
  --_muted: var(--portcullis-muted, #565d6b);
  --_border: var(--portcullis-border, #d9dde4);
  --_accent: var(--portcullis-accent, #2f5bea);
  --_on-accent: var(--portcullis-on-accent, #ffffff);
  --_focus: var(--portcullis-focus, var(--_accent));
  --_danger: var(--portcullis-danger, #b3261e);
  --_radius: var(--portcullis-radius, 14px);
  color-scheme: var(--portcullis-color-scheme, light dark);
  box-sizing: border-box;
  inline-size: min(var(--portcullis-width, 27rem), calc(100vw - 2rem));
  max-block-size: calc(100dvh - 2rem);
  margin: auto;
  padding: 1.5rem;
  overflow: auto;
  overscroll-behavior: contain;
  color: var(--_color);
  background: var(--_background);
  border: 1px solid var(--_border);
  border-radius: var(--_radius);
  box-shadow: var(--portcullis-shadow, 0 24px 64px -12px rgb(0 0 0 / 0.35), 0 4px 16px rgb(0 0 0 / 0.12));
  font: 400 1rem/1.5 var(--portcullis-font, system-ui, sans-serif);
  text-align: start;
}

@supports (color: light-dark(#000, #fff)) {
  dialog {
    --_background: var(--portcullis-background, light-dark(#ffffff, #1d2027));
    --_color: var(--portcullis-color, light-dark(#16181d, #f2f4f8));
    --_muted: var(--portcullis-muted, light-dark(#565d6b, #aab1bf));
    --_border: var(--portcullis-border, light-dark(#d9dde4, #3a3f4b));
    --_accent: var(--portcullis-accent, light-dark(#2f5bea, #8fabff));
    --_on-accent: var(--portcullis-on-accent, light-dark(#ffffff, #0e1430));
    --_danger: var(--portcullis-danger, light-dark(#b3261e, #ff9c94));
  }
}

dialog::backdrop {
  background: var(--portcullis-backdrop, rgb(10 12 18 / 0.5));
}

.content {
  display: flex;
  gap: 1.25rem;
  align-items: center;
}

.words {
  flex: 1;
  min-inline-size: 0;
  overflow-wrap: break-word;
}

h2 {
  margin: 0 0 0.25rem;
  font: inherit;
  font-size: 1.1875rem;
  font-weight: 650;
  line-height: 1.3;
  text-wrap: balance;
}

h2:focus {
  outline: none;
}

p {
  margin: 0;
  color: var(--_muted);
}

.trouble {
  margin-block-start: 0.5rem;
  color: var(--_danger);
}

.unseen {
  position: absolute;
  inline-size: 1px;
  block-size: 1px;
  overflow: hidden;
  clip-path: inset(50%);
  white-space: nowrap;
}

.ring {
  position: relative;
  flex: none;
  display: grid;
  place-items: center;
  inline-size: 4.5rem;
  block-size: 4.5rem;
  font-size: 1.125rem;
  font-weight: 650;
  font-variant-numeric: tabular-nums;
}

.ring svg {
  position: absolute;
  inset: 0;
  transform: rotate(-90deg);
}

circle {
  fill: none;
  stroke: var(--_border);
  stroke-width: 5;
}

.rest {
  stroke: var(--_accent);
  stroke-linecap: round;
  stroke-dasharray: 100;
  stroke-dashoffset: calc(100 - 100 * var(--_left) / var(--_of));
}

.buttons {
  display: flex;
  flex-wrap: wrap;
  gap: 0.625rem;
  margin-block-start: 1.5rem;
}

button {
  flex: 1 1 auto;
  box-sizing: border-box;
  min-block-size: 2.75rem;
  margin: 0;
  padding: 0.5rem 1rem;
  color: var(--_color);
  background: transparent;
  border: 1px solid var(--_border);
  border-radius: calc(var(--_radius) * 0.65);
  font: inherit;
  font-weight: 600;
  cursor: pointer;
}

button[hidden],
p[hidden] {
  display: none;
}

button:hover {
  border-color: var(--_muted);
}

.primary {
  color: var(--_on-accent);
  background: var(--_accent);
  border-color: var(--_accent);
}

.primary:hover {
  border-color: var(--_accent);
  filter: brightness(1.08);
}

button:focus-visible {
  outline: 3px solid var(--_focus);
  outline-offset: 2px;
}

button[aria-disabled='true'] {
  cursor: progress;
  opacity: 0.6;
}

@media (max-width: 30rem) {
  .content {
    flex-direction: column;
    gap: 0.875rem;
    text-align: center;
  }

  .buttons {
    flex-direction: column;
  }

  button {
    flex: none;
    inline-size: 100%;
  }
}

@media (prefers-reduced-motion: no-preference) {
  dialog[open] {
    animation: rise 180ms cubic-bezier(0.2, 0.8, 0.2, 1);
  }

  dialog[open]::backdrop {
    animation: appear 180ms ease-out;
  }

  .rest {
    transition: stroke-dashoffset 1s linear;
  }

  @keyframes rise {
    from {
      opacity: 0;
      transform: translateY(12px) scale(0.98);
    }
  }

  @keyframes appear {
    from {
      opacity: 0;
    }
  }
}

@media (forced-colors: active) {
  dialog {
    border: 2px solid CanvasText;
  }

  circle {
    stroke: GrayText;
  }

  .rest {
    stroke: Highlight;
  }

  button:focus-visible {
    outline-color: Highlight;
  }
}
`;
