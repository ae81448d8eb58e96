import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openTab, openTabs, start } from './support/browser.js';
import { IDLE_LIMIT, ask, eventually } from './support/gate.js';

let rig;
before(async () => (rig = await start()));
after(() => rig.stop());

const checks = async (tab) => (await tab.requests()).filter(({ path }) => path === '/.portcullis/session').length;

test('a clock that jumps ahead ends nothing: the gate is asked', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token(), clock: true });
  await tab.isActive();
  const before = await checks(tab);
  await tab.page.clock.fastForward('01:00:00');
  await eventually('the gate is asked', async () => (await checks(tab)) > before);
  await eventually('the end is where the gate has it', async () => {
    const { phase, idle } = await tab.state();
    return phase === 'active' && idle > 0 && idle <= IDLE_LIMIT;
  });
  assert.deepEqual(await tab.events(), []);
});

test('a clock that is set back does not put the end off', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token(), clock: true });
  await tab.isActive();
  const now = await tab.page.evaluate(() => Date.now());
  await tab.page.clock.setSystemTime(now - 3_600_000);
  // Whatever wakes it first: here, that the page is looked at.
  await tab.page.evaluate(() => window.dispatchEvent(new Event('focus')));
  await eventually('the end is where the gate has it', async () => {
    const { idle } = await tab.state();
    return idle > 0 && idle <= IDLE_LIMIT;
  });
  await tab.hasEnded();
  assert.deepEqual(await tab.ended(), [{ code: 'idle_timeout', requested: false }]);
});

test('who wakes the machine after the end is told so, and not warned of it', async (t) => {
  const context = await openTabs(t, rig);
  const token = rig.gate.token();
  const tab = await openTab(context, { token, clock: true });
  await tab.isActive();
  await tab.page.clock.pauseAt(await tab.page.evaluate(() => Date.now() + 200));
  const asleep = Date.now();
  await eventually('the session ends meanwhile', async () => {
    if (Date.now() - asleep < IDLE_LIMIT * 1000) return false;
    return (await ask(rig.gate, token)).status === 401;
  });
  assert.equal((await tab.state()).phase, 'active');
  await tab.page.clock.fastForward(Date.now() - asleep);
  await tab.page.clock.resume();
  await tab.hasEnded();
  assert.deepEqual(
    (await tab.events()).map(({ type, detail }) => [type, detail.code]),
    [['ended', 'idle_timeout']],
  );
});

test('a page that was frozen asks when it comes back', async (t) => {
  const context = await openTabs(t, rig);
  const token = rig.gate.token();
  const tab = await openTab(context, { token });
  await tab.isActive();
  const before = await checks(tab);
  const devtools = await context.newCDPSession(tab.page);
  await devtools.send('Page.setWebLifecycleState', { state: 'frozen' });
  const frozen = Date.now();
  await eventually('the person is active elsewhere all the time', async () => {
    await ask(rig.gate, token, { headers: { authorization: `Bearer ${token}` } });
    return Date.now() - frozen > IDLE_LIMIT * 1000;
  });
  await devtools.send('Page.setWebLifecycleState', { state: 'active' });
  await eventually('the gate is asked', async () => (await checks(tab)) > before);
  await eventually('the end is where the gate has it', async () => (await tab.state()).idle >= IDLE_LIMIT - 2);
  assert.deepEqual(await tab.events(), []);
});

test('polls in the background do not extend the session', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token() });
  await tab.isActive();
  await tab.page.evaluate(() => {
    window.polls = [];
    window.polling = setInterval(async () => {
      window.polls.push((await window.session.fetch('/api/poll', { background: true })).status);
    }, 400);
  });
  await tab.dialog.waitFor();
  await tab.hasEnded();
  const polls = await tab.page.evaluate(() => {
    clearInterval(window.polling);
    return window.polls;
  });
  assert.ok(polls.filter((status) => status === 200).length >= 8, polls.join(' '));
  assert.deepEqual(await tab.ended(), [{ code: 'idle_timeout', requested: false }]);
});

test('requests of the person extend it', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token() });
  const begun = Date.now();
  await eventually('longer than the idle limit', async () => {
    assert.equal((await tab.call()).status, 200);
    return Date.now() - begun > (IDLE_LIMIT + 1) * 1000;
  });
  assert.deepEqual(await tab.events(), []);
});

test('typing counts where the application says so, and asks the gate seldom', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token(), trackActivity: true });
  await tab.isActive();
  await tab.page.locator('#letter').focus();
  const begun = Date.now();
  await eventually('longer than the idle limit', async () => {
    await tab.page.keyboard.type('word ', { delay: 40 });
    return Date.now() - begun > (IDLE_LIMIT + 1) * 1000;
  });
  assert.deepEqual(await tab.events(), []);
  const continued = (await tab.requests()).filter(({ path }) => path === '/.portcullis/session/continue');
  const most = (Date.now() - begun) / ((IDLE_LIMIT * 1000) / 4) + 1;
  assert.ok(continued.length >= 3 && continued.length <= most, `${continued.length} times`);
});

test('typing does not count otherwise', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token() });
  await tab.page.locator('#letter').focus();
  await eventually('there is a warning', async () => {
    await tab.page.keyboard.type('a');
    return (await tab.state()).phase === 'warning';
  });
});

test('a network that is down ends nothing', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token() });
  await tab.dialog.waitFor();
  const warned = Date.now();
  await context.setOffline(true);
  await tab.page.evaluate(() => {
    window.timers = 0;
    const { setTimeout } = window;
    window.setTimeout = (...timer) => {
      window.timers += 1;
      return setTimeout(...timer);
    };
  });
  await tab.page.getByRole('button', { name: 'Stay signed in' }).click();
  await tab.page.getByText('The server cannot be reached').waitFor();
  await eventually('the end is past', async () => Date.now() - warned > 5500);
  const timers = await tab.page.evaluate(() => window.timers);
  assert.ok(timers < 30, `it waits in between: ${timers} timers`);
  assert.ok((await tab.requests()).length < 15, 'and asks ever less often');
  assert.equal((await tab.state()).phase, 'warning');
  assert.deepEqual(await tab.ended(), []);
  await context.setOffline(false);
  await tab.hasEnded();
  assert.deepEqual(await tab.ended(), [{ code: 'idle_timeout', requested: false }]);
});

test('"stay signed in" is tried again until the network is back', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token() });
  await tab.dialog.waitFor();
  await context.setOffline(true);
  await tab.page.getByRole('button', { name: 'Stay signed in' }).click();
  await tab.page.getByText('The server cannot be reached').waitFor();
  await context.setOffline(false);
  await tab.dialog.waitFor({ state: 'hidden' });
  assert.equal((await tab.state()).phase, 'active');
});

test('answers that were overtaken do not bring an end nearer', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token() });
  await tab.isActive();
  const idle = await tab.page.evaluate(() => {
    const answer = (idle) => ({ status: 200, headers: { 'portcullis-session-idle': String(idle) } });
    const { session } = window;
    const now = Date.now();
    session.observe(answer(1000), { at: now });
    session.observe(answer(2), { at: now + 5 });
    session.observe(answer(1001), { at: now - 5 });
    return session.state.idle;
  });
  assert.ok(idle > 1000, `${idle} s`);
});

test('answers out of the cache of the browser extend nothing', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token() });
  await tab.isActive();
  const idle = await tab.page.evaluate(() => {
    const at = (ago) => new Date(Date.now() - ago).toUTCString();
    const { session } = window;
    const answer = (date) => ({ status: 200, headers: { date, 'portcullis-session-idle': '1000' } });
    session.observe(answer(at(60_000)));
    const stored = session.state.idle;
    session.observe(answer(at(0)));
    return [stored, session.state.idle];
  });
  assert.ok(idle[0] <= IDLE_LIMIT && idle[1] === 1000, idle.join(' '));
});
