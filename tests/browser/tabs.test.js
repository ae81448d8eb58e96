import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openTab, openTabs, start } from './support/browser.js';
import { IDLE_LIMIT, ask, eventually } from './support/gate.js';

let rig;
before(async () => (rig = await start()));
after(() => rig.stop());

async function openTwo(t, { second, ...options } = {}) {
  const context = await openTabs(t, rig);
  const token = rig.gate.token();
  const tabs = [await openTab(context, { token, ...options }), await openTab(context, { token, ...options, ...second })];
  await Promise.all(tabs.map((tab) => tab.isActive()));
  return [...tabs, token];
}

test('activity in one tab keeps the other quiet', async (t) => {
  const [active, quiet] = await openTwo(t);
  const begun = Date.now();
  await eventually('longer than the idle limit', async () => {
    assert.equal((await active.call()).status, 200);
    return Date.now() - begun > (IDLE_LIMIT + 2) * 1000;
  });
  assert.deepEqual(await quiet.events(), []);
  const { phase, idle } = await quiet.state();
  assert.equal(phase, 'active');
  assert.ok(idle >= IDLE_LIMIT - 1, `it knows of the other: ${idle} s left`);
  const asked = (await quiet.requests()).length;
  assert.ok(asked <= 2, `it did not have to ask: ${asked} requests`);
});

test('without a channel between them the gate knows of the other', async (t) => {
  const [active, quiet] = await openTwo(t, { channel: false });
  const begun = Date.now();
  await eventually('longer than the idle limit', async () => {
    assert.equal((await active.call()).status, 200);
    return Date.now() - begun > (IDLE_LIMIT + 2) * 1000;
  });
  assert.deepEqual(await quiet.events(), []);
});

test('who continues in one tab is not asked in the other any more', async (t) => {
  const [here, there] = await openTwo(t);
  await Promise.all([here.dialog.waitFor(), there.dialog.waitFor()]);
  await here.page.getByRole('button', { name: 'Stay signed in' }).click();
  await Promise.all([here.dialog.waitFor({ state: 'hidden' }), there.dialog.waitFor({ state: 'hidden', timeout: 1000 })]);
  assert.equal((await there.state()).phase, 'active');
  assert.deepEqual([...(await here.ended()), ...(await there.ended())], []);
});

test('who works in one tab is not asked in the other any more', async (t) => {
  const [here, there] = await openTwo(t, { second: { warnBefore: 1 } });
  await here.dialog.waitFor();
  assert.equal(await there.dialog.isVisible(), false);
  await there.call();
  await here.dialog.waitFor({ state: 'hidden', timeout: 1000 });
});

test('who logs out in one tab is logged out in the other', async (t) => {
  const [here, there, token] = await openTwo(t);
  await here.page.evaluate(() => window.session.logout());
  await there.hasEnded(2000);
  assert.deepEqual(await there.ended(), [{ code: 'logged_out', requested: false }]);
  assert.equal((await ask(rig.gate, token)).code, 'session_ended');
});

test('all tabs are told of the idleness', async (t) => {
  const [here, there] = await openTwo(t);
  await Promise.all([here.hasEnded(), there.hasEnded()]);
  for (const tab of [here, there]) assert.deepEqual(await tab.ended(), [{ code: 'idle_timeout', requested: false }]);
});

test('sessions of different people do not mix', async (t) => {
  const [active, other] = await openTwo(t, { second: { token: rig.gate.token({ sub: 'bob' }) } });
  const calling = active.page.evaluate(() => {
    window.polling = setInterval(() => window.session.fetch('/api/hello'), 500);
  });
  await calling;
  await other.dialog.waitFor();
  await other.hasEnded();
  assert.equal((await active.state()).phase, 'active');
  assert.deepEqual(await active.events(), []);
});

test('what other tabs say is not believed blindly', async (t) => {
  const [here, there, token] = await openTwo(t);
  await here.page.evaluate(async () => {
    const channel = new BroadcastChannel(`portcullis-session ${location.origin}`);
    const heard = new Promise((resolve) => (channel.onmessage = ({ data }) => resolve(data)));
    const speaker = new BroadcastChannel(`portcullis-session ${location.origin}`);
    await window.session.continue();
    const { identity } = await heard;
    const now = Date.now();
    const seen = { portcullis: 1, identity, type: 'seen', at: now, absoluteEndsAt: null };
    for (const message of [
      null,
      'ended',
      { portcullis: 1, identity, type: 'ended', code: 'user_blocked' },
      { portcullis: 1, identity, type: 'ended', code: '<b>' },
      { ...seen, at: now + 86_400_000, idleEndsAt: now + 2 * 86_400_000 },
      { ...seen, idleEndsAt: 'never' },
      { ...seen, idleEndsAt: now - 1000 },
      { ...seen, identity: 'somebody else', idleEndsAt: now + 3_600_000 },
      // Believable, but not so: the gate is asked before anything comes of it.
      { ...seen, idleEndsAt: now + 10 },
    ]) {
      speaker.postMessage(message);
    }
    channel.close();
    speaker.close();
  });
  await eventually('the gate was asked', async () => (await there.state()).idle > 1);
  await there.dialog.waitFor();
  assert.deepEqual(await there.ended(), []);
  assert.equal((await ask(rig.gate, token)).status, 200);
});

test('a login as somebody else begins anew', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token() });
  await tab.dialog.waitFor();
  await tab.page.evaluate((token) => (window.token = token), rig.gate.token({ sub: 'bob' }));
  await tab.call();
  await tab.dialog.waitFor({ state: 'hidden', timeout: 1000 });
  assert.equal((await tab.state()).phase, 'active');
});
