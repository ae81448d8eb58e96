import * as portcullis from '/.portcullis/session.js';

window.portcullis = portcullis;
window.events = [];
window.requests = [];

/** Watches over a session, and writes down what happens. `fresh`: what `getToken` gives when the token was refused. */
window.watch = (token, { fresh, cookie = false, ...options } = {}) => {
  window.token = token;
  window.session = portcullis.createSession({
    ...(!cookie && {
      getToken: ({ fresh: again }) => {
        if (again && fresh) window.token = fresh;
        return window.token;
      },
    }),
    fetch: (request) => {
      const { pathname } = new URL(request.url);
      window.requests.push({ at: Date.now(), method: request.method, path: pathname });
      return window.fetch(request);
    },
    onSessionEnded: (code, detail) => window.events.push({ type: 'ended', at: Date.now(), detail }),
    onTokenRefused: (code) => window.events.push({ type: 'refused', at: Date.now(), detail: { code } }),
    onWarning: (detail) => void window.events.push({ type: 'warning', at: Date.now(), detail }),
    ...options,
  });
};
