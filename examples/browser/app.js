// `portcullis demo --browser` serves this: what an application does with the module.
import { createSession } from '/.portcullis/session.js';

const POLL_EVERY = 5000;
const REASONS = {
  idle_timeout: 'Nothing happened for too long.',
  reauthentication_required: 'This session has lasted as long as one may.',
  logged_out: 'You logged out.',
  session_ended: 'The session was ended elsewhere.',
  user_blocked: 'The account is blocked.',
  revoked: 'The token was revoked.',
};

const element = (id) => document.getElementById(id);
const largest = { idle: 1, absolute: 1 };
let token = null;
let polling;

// An identity provider's library does this, by a refresh token or its own cookie.
async function login({ same }) {
  const response = await fetch(same ? '/demo/token?same=1' : '/demo/token');
  ({ access_token: token } = await response.json());
}

const session = createSession({
  getToken: async ({ fresh }) => {
    if (fresh) await login({ same: true });
    return token;
  },
  warnBefore: 30,
  onSignIn: signIn,
  onSessionEnded(code, { requested }) {
    say(`session ended: ${code}`, 'bad');
    stopPolling();
    // A real application would try a silent login here, unless the person asked for the end, or lead to the login.
    element('ended-text').textContent = `${REASONS[code] ?? code}${requested ? '' : ' What you typed is still here.'}`;
    element('ended').hidden = false;
  },
  onTokenRefused: (code) => say(`token refused: ${code}`, 'bad'),
  onWarning: ({ reason, seconds }) => say(`warning: ${seconds} s until the ${reason} limit`, 'warn'),
});

async function signIn() {
  await login({ same: false });
  say('signed in anew: another session', 'good');
  element('ended').hidden = true;
  await call();
}

async function call(path = '/api/hello', init) {
  try {
    const response = await session.fetch(path, init);
    const code = response.ok ? '' : ` ${(await response.json()).code}`;
    say(`GET ${path} → ${response.status}${code}`, response.ok ? 'good' : 'bad');
  } catch (error) {
    say(`GET ${path}: ${error.message}`, 'bad');
  }
}

function startPolling() {
  const poll = () => call('/api/news', { background: true });
  polling = setInterval(poll, POLL_EVERY);
  element('poll').textContent = 'Stop polling';
  poll();
}

function stopPolling() {
  clearInterval(polling);
  polling = undefined;
  element('poll').textContent = 'Background poll';
}

function show() {
  const { phase, idle, absolute } = session.state;
  element('phase').textContent = { unknown: 'signed out', active: 'signed in', warning: 'about to end', ended: 'signed out' }[phase];
  element('phase').dataset.phase = phase;
  for (const [limit, left] of Object.entries({ idle, absolute })) {
    largest[limit] = Math.max(largest[limit], left ?? 0);
    const clock = element(limit);
    clock.dataset.near = String(left !== null && left <= 30);
    clock.querySelector('.time').textContent = left === null ? '–' : `${Math.floor(left / 60)}:${String(left % 60).padStart(2, '0')}`;
    clock.querySelector('progress').value = (left ?? 0) / largest[limit];
  }
  const isOver = phase === 'ended';
  for (const id of ['call', 'poll', 'log-out']) element(id).disabled = isOver;
}

function say(text, kind = 'plain') {
  const line = document.createElement('li');
  const time = document.createElement('time');
  time.textContent = new Date().toLocaleTimeString([], { hour12: false });
  line.append(time, ` ${text}`);
  line.dataset.kind = kind;
  element('log').prepend(line);
}

element('call').addEventListener('click', () => call());
element('poll').addEventListener('click', () => (polling === undefined ? startPolling() : stopPolling()));
element('sign-in').addEventListener('click', signIn);
element('log-out').addEventListener('click', () => session.logout().catch((error) => say(error.message, 'bad')));

session.subscribe(show);
await login({ same: true });
await call();
show();
