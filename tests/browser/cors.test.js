// Scripts of another origin, where the gate answers for its upstream, as a browser sees it.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { start } from './support/browser.js';

let rig;
before(async () => (rig = await start()));
after(() => rig.stop());

/** What a script of a page at `origin` gets; nothing where the browser keeps it from it. */
async function fetchFrom(origin, path, { token, ...init } = {}) {
  const context = await rig.browser.newContext();
  try {
    const page = await context.newPage();
    await page.goto(`${origin}/`);
    return await page.evaluate(
      async ({ url, init }) => {
        try {
          const response = await fetch(url, init);
          return { status: response.status, body: await response.json(), id: response.headers.get('x-request-id') };
        } catch (error) {
          return { error: error.name };
        }
      },
      { url: `${rig.gate.url}${path}`, init: { ...init, headers: token ? { authorization: `Bearer ${token}` } : {} } },
    );
  } finally {
    await context.close();
  }
}

test('scripts of an allowed origin read answers and refusals', async () => {
  const token = rig.gate.token();
  for (const method of ['GET', 'PUT']) {
    const { status, body, id } = await fetchFrom(rig.gate.elsewhere, '/api/shared/x', { token, method });
    assert.deepEqual([status, body], [200, { hello: 'world' }], method);
    assert.match(id, /^[0-9a-f-]{36}$/);
  }
  for (const [bad, code] of [
    ['nonsense', 'invalid_token'],
    [undefined, 'missing_token'],
  ]) {
    const { status, body } = await fetchFrom(rig.gate.elsewhere, '/api/shared/x', { token: bad });
    assert.deepEqual([status, body.code], [401, code]);
  }
});

test('a browser keeps scripts from everything else', async () => {
  const token = rig.gate.token();
  const other = rig.gate.elsewhere.replace('localhost', '127.0.0.1');
  for (const [what, origin, path, init] of [
    ['a method that is not allowed', rig.gate.elsewhere, '/api/shared/x', { token, method: 'DELETE' }],
    ['cookies, which are not allowed', rig.gate.elsewhere, '/api/shared/x', { token, credentials: 'include' }],
    ['an origin that is not allowed', other, '/api/shared/x', { token }],
    ['the same without a preflight', other, '/api/shared/x', {}],
    ['a route that says nothing', rig.gate.elsewhere, '/api/hello', { token }],
  ]) {
    assert.deepEqual(await fetchFrom(origin, path, init), { error: 'TypeError' }, what);
  }
});
