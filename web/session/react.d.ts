import type { PortcullisSession, SessionState } from './session.js';

/** The state of a session, drawn anew whenever it changes. */
export declare function usePortcullisSession(session: PortcullisSession): SessionState;

/** What `select` takes from it: a plain value, or the same object as long as it is the same. */
export declare function usePortcullisSession<T>(session: PortcullisSession, select: (state: SessionState) => T): T;
