import { useSyncExternalStore } from 'react';
import { UNKNOWN } from './session.js';

const whole = (state) => state;

/**
 * The state of a session, or what `select` takes from it: a component that selects `phase` is not drawn anew every second.
 * What is selected must be a plain value, or the same object as long as it is the same.
 */
export function usePortcullisSession(session, select = whole) {
  return useSyncExternalStore(
    session.subscribe,
    () => select(session.state),
    () => select(UNKNOWN),
  );
}
