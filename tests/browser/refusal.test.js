import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openTab, openTabs, start } from './support/browser.js';
import { ask, eventually } from './support/gate.js';

let rig;
before(async () => (rig = await start()));
after(() => rig.stop());

function expired(claims = {}) {
  const now = Math.floor(Date.now() / 1000);
  return rig.gate.token({ iat: now - 1200, exp: now - 600, ...claims });
}

async function endElsewhere(token) {
  const response = await fetch(`${rig.gate.url}/.portcullis/logout`, { method: 'POST', headers: { authorization: `Bearer ${token}` } });
  assert.equal(response.status, 204);
}

test('who types when the session ends keeps text and focus, and the application is told why', async (t) => {
  const context = await openTabs(t, rig);
  const token = rig.gate.token();
  const tab = await openTab(context, { token });
  const { page } = tab;
  await page.locator('#letter').pressSequentially('Dear reader, ');
  await endElsewhere(token);
  const { status, body } = await tab.call();
  assert.deepEqual([status, body.code], [401, 'session_ended']);
  await tab.hasEnded();
  await page.keyboard.type('I go on.');
  assert.equal(await page.locator('#letter').inputValue(), 'Dear reader, I go on.');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'letter');
  assert.equal(await tab.dialog.isVisible(), false);
  assert.deepEqual(await tab.ended(), [{ code: 'session_ended', requested: false }]);
});

test('a login after the end is a session again', async (t) => {
  const context = await openTabs(t, rig);
  const token = rig.gate.token();
  const tab = await openTab(context, { token });
  await endElsewhere(token);
  await tab.call();
  await tab.hasEnded();
  await tab.page.evaluate((token) => (window.token = token), rig.gate.token());
  assert.equal((await tab.call()).status, 200);
  const { phase, code } = await tab.state();
  assert.deepEqual([phase, code], ['active', null]);
  await tab.dialog.waitFor();
});

test('an expired token is replaced, and the request with its body sent again', async (t) => {
  const context = await openTabs(t, rig);
  const sid = 'one-session';
  const tab = await openTab(context, { token: expired({ sid }), fresh: rig.gate.token({ sid }) });
  const { status } = await tab.call('/api/orders', { method: 'POST', body: '{"coffee":1}' });
  assert.equal(status, 200);
  const code = await tab.page.evaluate(async (token) => {
    window.token = token;
    const request = new Request('/api/orders', { method: 'POST', body: '{"coffee":1}' });
    return (await window.session.fetch(request)).status;
  }, expired({ sid }));
  assert.equal(code, 200);
  assert.deepEqual(await tab.events(), []);
});

test('a token that cannot be replaced is told, and ends no session', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: expired() });
  const { status, body } = await tab.call();
  assert.deepEqual([status, body.code], [401, 'token_expired']);
  const events = await tab.events();
  assert.ok(events.length > 0 && events.every(({ type, detail }) => type === 'refused' && detail.code === 'token_expired'));
  assert.equal((await tab.state()).phase, 'unknown');
});

test('answers that the application fetched by itself are read, and left to it', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token(), dialog: false });
  await tab.isActive();
  const found = await tab.page.evaluate(async () => {
    const { session } = window;
    const headers = { authorization: `Bearer ${window.token}` };
    const body = await session.observe(await fetch('/api/hello', { headers })).json();
    const idle = session.state.idle;
    session.observe({ status: 200, headers: { 'portcullis-session-idle': '100', 'portcullis-session-absolute': '200' }, data: {} });
    await Promise.resolve();
    const axios = session.state.absolute;
    const problem = (status, code) =>
      new Response(JSON.stringify({ code }), { status, headers: { 'content-type': 'application/problem+json' } });
    const unread = session.observe(problem(503, 'stale'));
    session.observe(problem(403, 'insufficient_scope'));
    session.observe(new Response('not JSON', { status: 401, headers: { 'content-type': 'application/problem+json' } }));
    session.observe(new Response('{"code":"revoked"}', { status: 401, headers: { 'content-type': 'application/json' } }));
    const stale = (await unread.json()).code;
    await new Promise((resolve) => setTimeout(resolve));
    const { phase } = session.state;
    session.observe(problem(401, 'user_blocked'));
    await new Promise((resolve) => session.addEventListener('ended', resolve));
    return { body, idle, axios, stale, phase };
  });
  assert.deepEqual(found.body, { hello: 'world' });
  assert.ok(found.idle >= 5);
  assert.deepEqual([found.axios, found.stale, found.phase], [200, 'stale', 'active']);
  assert.deepEqual(await tab.ended(), [{ code: 'user_blocked', requested: false }]);
});

test('tokens go to the gate only', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token() });
  const sent = await tab.page.evaluate(async () => {
    const sent = [];
    const session = window.portcullis.createSession({
      base: 'https://api.acme.example/',
      getToken: () => 'secret',
      dialog: false,
      fetch: async (input, init) => {
        const request = input instanceof Request ? input : new Request(input, init);
        sent.push([request.url, request.headers.get('authorization'), request.headers.get('portcullis-activity')]);
        return new Response('{"code":"session_ended"}', { status: 401, headers: { 'content-type': 'application/problem+json' } });
      },
    });
    await session.fetch('https://elsewhere.example/', { background: true });
    await session.fetch('/own');
    const { phase } = session.state;
    await session.fetch('https://api.acme.example/orders', { background: true });
    const after = session.state.phase;
    session.close();
    return { sent: sent.filter(([url]) => !url.includes('/.portcullis/')), phase, after };
  });
  assert.deepEqual(sent.sent, [
    ['https://elsewhere.example/', null, null],
    [`${rig.gate.url}/own`, null, null],
    ['https://api.acme.example/orders', 'Bearer secret', 'background'],
  ]);
  assert.equal(sent.after, 'ended');
});

test('a session by cookie is watched over as well', async (t) => {
  const context = await openTabs(t, rig);
  const token = rig.gate.token();
  await context.addCookies([{ name: 'token', value: token, url: rig.gate.url, httpOnly: true }]);
  const tab = await openTab(context, { cookie: true });
  const other = await openTab(context, { cookie: true });
  await tab.dialog.waitFor();
  await tab.page.getByRole('button', { name: 'Stay signed in' }).click();
  await tab.dialog.waitFor({ state: 'hidden' });
  await other.dialog.waitFor({ state: 'hidden', timeout: 1000 });
  await tab.page.evaluate(() => window.session.logout());
  await eventually('the other tab is told', async () => (await other.ended()).length > 0);
  assert.deepEqual(await other.ended(), [{ code: 'logged_out', requested: false }]);
  assert.equal((await ask(rig.gate, token)).code, 'session_ended');
});

test('the gate may be at another origin than the page', async (t) => {
  const context = await openTabs(t, rig);
  const token = rig.gate.token();
  const tab = await openTab(context, { url: `${rig.gate.elsewhere}/`, token, base: rig.gate.url });
  await tab.dialog.waitFor();
  await tab.page.getByRole('button', { name: 'Stay signed in' }).click();
  await tab.dialog.waitFor({ state: 'hidden' });
  assert.equal((await tab.state()).phase, 'active');
  await endElsewhere(token);
  await tab.page.evaluate(() => window.session.check().catch(() => {}));
  assert.deepEqual(await tab.ended(), [{ code: 'session_ended', requested: false }]);
});

test('what goes wrong is an error that tells', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token() });
  await tab.isActive();
  const found = await tab.page.evaluate(async (token) => {
    window.token = token;
    return window.session.continue().catch(({ name, status, code }) => ({ name, status, code }));
  }, 'not-a-token');
  assert.deepEqual(found, { name: 'SessionError', status: 401, code: 'invalid_token' });
});
