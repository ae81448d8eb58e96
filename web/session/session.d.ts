/** The version of this module, that of the gate which serves it. */
export declare const VERSION: string;

/** The codes by which the gate says that a session is over. */
export declare const ENDING_CODES: readonly EndingCode[];

/** The codes that are about the token alone: another one of the same session may be good. */
export declare const TOKEN_CODES: readonly TokenCode[];

/** What is known before the gate has said anything, and on a server. */
export declare const UNKNOWN: SessionState;

export type EndingCode =
  | 'idle_timeout'
  | 'session_ended'
  | 'logged_out'
  | 'user_blocked'
  | 'revoked'
  | 'reauthentication_required';

export type TokenCode = 'token_expired' | 'invalid_token' | 'token_lifetime';

/** Which limit: `idle` can be put off by activity, `absolute` by a new login only. */
export type Limit = 'idle' | 'absolute';

export interface SessionState {
  /** `unknown`: the gate has not said anything yet, or nobody is logged in. */
  readonly phase: 'unknown' | 'active' | 'warning' | 'ended';
  /** Why it ended. `missing_token`: the cookie is gone. */
  readonly code: EndingCode | 'missing_token' | null;
  /** What the warning is about, while there is one. */
  readonly reason: Limit | null;
  /** Whole seconds until the idle limit; `null`: there is none, or it is not known. */
  readonly idle: number | null;
  /** Whole seconds until the absolute limit; `null`: there is none, or it is not known. */
  readonly absolute: number | null;
  /** The nearer of both ends, in milliseconds since 1970 by this machine's clock. */
  readonly endsAt: number | null;
}

export interface EndedDetail {
  readonly code: EndingCode | 'missing_token';
  /** Whether it was logged out by this tab: then there is nothing to be tried again. */
  readonly requested: boolean;
}

export interface WarningDetail {
  readonly reason: Limit;
  readonly seconds: number;
}

export interface RefusedDetail {
  readonly code: TokenCode;
}

export interface SessionEvent<T> extends Event {
  readonly detail: T;
}

export interface SessionEventMap {
  /** `state` has changed. */
  change: SessionEvent<SessionState>;
  /** The end is near. `preventDefault()` keeps the dialog closed. */
  warning: SessionEvent<WarningDetail>;
  /** The gate has refused: the session is over. */
  ended: SessionEvent<EndedDetail>;
  /** A token was refused and no other could be had. The session may go on. */
  refused: SessionEvent<RefusedDetail>;
}

/** A text, or a function of the whole seconds left. */
export type Text = string | ((seconds: number) => string);

export interface Strings {
  idleTitle: Text;
  idleText: Text;
  absoluteTitle: Text;
  absoluteText: Text;
  /** What screen readers say of the time left. */
  timeLeft: Text;
  /** The time left as it is shown. */
  clock: Text;
  stay: Text;
  logOut: Text;
  signIn: Text;
  dismiss: Text;
  unreachable: Text;
}

export interface TokenRequest {
  /** The last token was refused: another one is needed. */
  readonly fresh: boolean;
  /** Why it was refused. */
  readonly code?: TokenCode;
}

export interface DialogOptions {
  /** Where the dialog stands in the document. Default: `document.body`. */
  container?: Element;
}

export interface SessionOptions {
  /** Where the gate is, as `https://api.acme.example`. Default: the page's own origin. */
  base?: string;
  /** The name of the route whose limits count, where routes have their own. */
  route?: string;
  /** Where tokens come from; without it, a cookie goes along. `null`: nobody is logged in. */
  getToken?: (request: TokenRequest) => string | null | undefined | Promise<string | null | undefined>;
  /** How many seconds before the end to warn. Default: 60, and at most half the idle limit. */
  warnBefore?: number;
  /** Whether work in the page itself counts as activity, such as typing. Default: `false`. */
  trackActivity?: boolean;
  /** The dialog that warns, or `false` for one of your own. Default: `true`. */
  dialog?: boolean | DialogOptions;
  /** Other texts for the dialog, or a function that gives them whenever it is needed. */
  strings?: Partial<Strings> | (() => Partial<Strings>);
  /** The name by which tabs find each other, or `false`. Default: one for `base` and `route`. */
  channel?: string | false;
  /** For requests to `/.portcullis/`. Default: `same-origin`. */
  credentials?: RequestCredentials;
  /** Default: the browser's. */
  fetch?: typeof globalThis.fetch;
  onSessionEnded?: (code: EndedDetail['code'], detail: EndedDetail) => void;
  onTokenRefused?: (code: TokenCode, detail: RefusedDetail) => void;
  /** `false` keeps the dialog closed. */
  onWarning?: (detail: WarningDetail) => boolean | void;
  /** Leads to the login: the dialog offers it when the absolute limit is near. */
  onSignIn?: () => void;
}

export interface SessionRequestInit extends RequestInit {
  /** The person did nothing: the request does not extend the session. */
  background?: boolean;
}

/** An answer as axios has it. */
export interface AnswerLike {
  status: number;
  headers: { get(name: string): unknown } | Record<string, unknown>;
  data?: unknown;
  url?: string;
}

export interface PortcullisSession extends EventTarget {
  /** What is known now. The object stays the same until something changes. */
  readonly state: SessionState;
  /** Calls `listener` whenever `state` has changed. Returns what ends that. */
  readonly subscribe: (listener: () => void) => () => void;
  /** As the browser's `fetch`, with the token added and the answer read. */
  readonly fetch: (input: RequestInfo | URL, init?: SessionRequestInit) => Promise<Response>;
  /** Reads an answer that the application fetched by itself, and returns it. */
  observe<T extends Response | AnswerLike>(response: T, request?: { at?: number }): T;
  /** Asks the gate how the session is, without extending it. Rejects with a `SessionError` if it does not tell. */
  check(): Promise<SessionState>;
  /** Extends the session. */
  continue(): Promise<SessionState>;
  /** Ends the session at the gate. */
  logout(): Promise<void>;
  /** Stops watching. Nothing is told to the gate. */
  close(): void;
  addEventListener<K extends keyof SessionEventMap>(
    type: K,
    listener: (event: SessionEventMap[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof SessionEventMap>(
    type: K,
    listener: (event: SessionEventMap[K]) => void,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

/** The gate was asked and did not answer as it should. */
export declare class SessionError extends Error {
  readonly status: number | null;
  readonly code: string | null;
}

/** Starts to watch over a session. */
export declare function createSession(options?: SessionOptions): PortcullisSession;
