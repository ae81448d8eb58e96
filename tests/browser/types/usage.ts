// How an application uses the types. Compiled, never run.
import { ENDING_CODES, SessionError, UNKNOWN, VERSION, createSession } from 'portcullis-session';
import type { EndedDetail, PortcullisSession, SessionState, Strings } from 'portcullis-session';
import { usePortcullisSession } from 'portcullis-session/react';

const german: Partial<Strings> = {
  idleTitle: 'Sind Sie noch da?',
  timeLeft: (seconds) => (seconds === 1 ? 'noch 1 Sekunde' : `noch ${seconds} Sekunden`),
};

const session: PortcullisSession = createSession({
  base: 'https://api.acme.example',
  getToken: async ({ fresh, code }) => (fresh ? `new after ${code}` : null),
  warnBefore: 90,
  trackActivity: true,
  dialog: { container: document.body },
  strings: () => german,
  onSessionEnded: (code, { requested }) => {
    if (code === 'idle_timeout' && !requested) location.assign('/login');
  },
  onWarning: ({ seconds }) => seconds > 1,
});

session.addEventListener('ended', (event) => {
  const detail: EndedDetail = event.detail;
  console.log(detail.code);
});
const stop: () => void = session.subscribe(() => console.log(session.state.idle));
const response: Response = await session.fetch('/orders', { method: 'POST', background: true });
session.observe(response).headers.get('date');
const { data } = session.observe({ status: 200, headers: { date: 'now' }, data: { orders: 1 } });
const orders: number = data.orders;
const state: SessionState = await session.check();
if (state.endsAt !== null) console.log(new Date(state.endsAt), orders);
await session.continue().catch((error: unknown) => error instanceof SessionError && error.code);
await session.logout();

export function useLeft(): number | null {
  const phase: SessionState['phase'] = usePortcullisSession(session, ({ phase }) => phase);
  return phase === 'active' ? usePortcullisSession(session).idle : null;
}

// @ts-expect-error: there is no such option
createSession({ warnAfter: 1 });
// @ts-expect-error: a state is read only
session.state.phase = 'active';

stop();
session.close();
console.log(VERSION, UNKNOWN.phase, ENDING_CODES.includes('revoked'));
