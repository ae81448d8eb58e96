import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openTab, openTabs, start } from './support/browser.js';
import { IDLE_LIMIT, ask, eventually } from './support/gate.js';

let rig;
before(async () => (rig = await start()));
after(() => rig.stop());

test('the warning comes three seconds before the end, not sooner', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token() });
  await tab.isActive();
  await tab.call();
  const called = (await tab.requests()).findLast(({ path }) => path === '/api/hello').at;
  assert.equal(await tab.dialog.isVisible(), false);
  await tab.dialog.waitFor();
  const [{ at, detail }] = await tab.events();
  const after = (at - called) / 1000;
  t.diagnostic(`shown ${after.toFixed(2)} s after the last activity`);
  assert.ok(after > IDLE_LIMIT - 3 - 1.1 && after < IDLE_LIMIT - 3 + 0.6, `shown after ${after} s`);
  assert.equal(detail.reason, 'idle');
  assert.ok(detail.seconds === 3 || detail.seconds === 2);
  assert.equal((await tab.state()).phase, 'warning');
});

test('"stay signed in" extends the session at the gate', async (t) => {
  const context = await openTabs(t, rig);
  const token = rig.gate.token();
  const tab = await openTab(context, { token });
  await tab.dialog.waitFor();
  await tab.page.getByRole('button', { name: 'Stay signed in' }).click();
  await tab.dialog.waitFor({ state: 'hidden' });
  const { phase, idle } = await tab.state();
  assert.equal(phase, 'active');
  assert.ok(idle >= IDLE_LIMIT - 1, `${idle} s left`);
  await tab.dialog.waitFor();
  assert.deepEqual(await ask(rig.gate, token), { status: 200, code: null });
  assert.deepEqual(await tab.ended(), []);
});

test('"log out" ends the session at the gate', async (t) => {
  const context = await openTabs(t, rig);
  const token = rig.gate.token();
  const tab = await openTab(context, { token });
  await tab.dialog.waitFor();
  await tab.page.getByRole('button', { name: 'Log out' }).click();
  await tab.dialog.waitFor({ state: 'hidden' });
  await eventually('the application is told', async () => (await tab.ended()).length > 0);
  assert.deepEqual(await tab.ended(), [{ code: 'logged_out', requested: true }]);
  assert.deepEqual(await ask(rig.gate, token), { status: 401, code: 'session_ended' });
});

test('nobody does anything: the application is told why, once, and the dialog closes', async (t) => {
  const context = await openTabs(t, rig);
  const token = rig.gate.token();
  const tab = await openTab(context, { token });
  await tab.dialog.waitFor();
  await tab.hasEnded();
  assert.equal(await tab.dialog.isVisible(), false);
  assert.deepEqual(await tab.ended(), [{ code: 'idle_timeout', requested: false }]);
  assert.equal((await tab.state()).code, 'idle_timeout');
  assert.equal((await ask(rig.gate, token)).status, 401);
});

test('it can be worked by keyboard, and gives focus and caret back', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token() });
  const { page, dialog } = tab;
  await page.locator('#letter').fill('Dear reader');
  await page.locator('#letter').evaluate((field) => field.setSelectionRange(5, 7));
  await dialog.waitFor();
  const focused = () => page.evaluate(() => document.querySelector('portcullis-session').shadowRoot.activeElement?.textContent);
  assert.equal(await focused(), 'Stay signed in');
  await page.keyboard.press('Tab');
  assert.equal(await focused(), 'Log out');
  await page.keyboard.press('Shift+Tab');
  assert.equal(await focused(), 'Stay signed in');
  await page.keyboard.press('Enter');
  await dialog.waitFor({ state: 'hidden' });
  const field = await page.evaluate(() => {
    const { id, selectionStart, selectionEnd, value } = document.activeElement;
    return { id, selectionStart, selectionEnd, value };
  });
  assert.deepEqual(field, { id: 'letter', selectionStart: 5, selectionEnd: 7, value: 'Dear reader' });
});

test('Escape keeps people signed in, pressed twice too', async (t) => {
  const context = await openTabs(t, rig);
  const token = rig.gate.token();
  const tab = await openTab(context, { token });
  await tab.page.locator('#editable').click();
  await tab.page.evaluate(() => getSelection().collapse(document.querySelector('#editable').firstChild, 4));
  await tab.dialog.waitFor();
  await tab.page.keyboard.press('Escape');
  await tab.page.keyboard.press('Escape');
  await tab.dialog.waitFor({ state: 'hidden' });
  await tab.isActive();
  assert.ok((await tab.requests()).some(({ path }) => path === '/.portcullis/session/continue'));
  const caret = await tab.page.evaluate(() => [document.activeElement.id, getSelection().focusOffset]);
  assert.deepEqual(caret, ['editable', 4]);
  assert.equal((await ask(rig.gate, token)).status, 200);
});

test('assistive technology is told what it is, and the time left at a few moments', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token() });
  await tab.dialog.waitFor();
  const seen = await tab.page.evaluate(() => {
    const root = document.querySelector('portcullis-session').shadowRoot;
    const dialog = root.querySelector('dialog');
    const named = (attribute) =>
      dialog
        .getAttribute(attribute)
        .split(' ')
        .map((id) => root.getElementById(id).textContent);
    return {
      isModal: dialog.matches(':modal'),
      name: named('aria-labelledby'),
      description: named('aria-describedby'),
      lang: root.host.lang,
      status: root.querySelectorAll('[role="status"]').length,
      isDrawingHidden: root.querySelector('.ring').getAttribute('aria-hidden'),
    };
  });
  assert.equal(seen.isModal, true);
  assert.deepEqual(seen.name, ['Are you still there?']);
  assert.match(seen.description[0], /about to be signed out/);
  assert.match(seen.description[1], /^[23] seconds left$/);
  assert.equal(seen.lang, 'en');
  assert.equal(seen.status, 1);
  assert.equal(seen.isDrawingHidden, 'true');
  await assert.rejects(tab.page.getByRole('button', { name: 'Another button' }).click({ timeout: 300 }), 'the page is inert');
});

test('the time left is said aloud at steps, not every second', async (t) => {
  const context = await openTabs(t, rig);
  // The absolute limit is near, and the warning comes at once.
  const tab = await openTab(context, { token: rig.gate.token({ loggedInAgo: 3600 - 25 }), warnBefore: 40, clock: true });
  await tab.dialog.waitFor();
  await tab.page.evaluate(() => {
    window.said = [];
    const status = document.querySelector('portcullis-session').shadowRoot.querySelector('[role="status"]');
    new MutationObserver(() => window.said.push(status.textContent)).observe(status, { childList: true });
  });
  await tab.page.clock.runFor(7000);
  const said = await tab.page.evaluate(() => window.said.filter((text) => text !== ''));
  assert.deepEqual(said, ['20 seconds left']);
});

test('it stands above a modal dialog of the page', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token() });
  await tab.page.evaluate(() => document.querySelector('#modal').showModal());
  await tab.dialog.first().waitFor();
  await tab.page.getByRole('button', { name: 'Stay signed in' }).click();
  await tab.isActive();
  const inside = await tab.page.evaluate(() => document.activeElement.textContent);
  assert.equal(inside, 'Inside');
});

test('near the absolute limit it says that a login is needed, and can be put away', async (t) => {
  const context = await openTabs(t, rig);
  const token = rig.gate.token({ loggedInAgo: 3600 - 5 });
  const tab = await openTab(context, { token, warnBefore: 60, focus: 'letter' });
  await tab.dialog.waitFor();
  assert.equal(await tab.page.getByRole('heading', { name: 'Your session ends soon' }).isVisible(), true);
  assert.equal(await tab.page.getByRole('button', { name: 'Stay signed in' }).count(), 0);
  await tab.page.getByRole('button', { name: 'OK' }).click();
  await tab.dialog.waitFor({ state: 'hidden' });
  assert.equal(await tab.page.evaluate(() => document.activeElement.id), 'letter');
  assert.equal((await tab.state()).phase, 'warning');
  await tab.call();
  assert.equal(await tab.dialog.isVisible(), false);
  await tab.hasEnded();
  assert.deepEqual(await tab.ended(), [{ code: 'reauthentication_required', requested: false }]);
});

test('near the absolute limit the dialog leads to the login where the application knows the way', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token({ loggedInAgo: 3600 - 20 }), dialog: false });
  const { page } = tab;
  await page.evaluate(() => {
    window.session.close();
    window.portcullis.createSession({
      getToken: () => window.token,
      onSignIn: () => (document.title = 'Login'),
    });
  });
  await page.getByRole('button', { name: 'Sign in again' }).click();
  assert.equal(await page.title(), 'Login');
  assert.equal(await page.getByRole('button', { name: 'OK' }).isVisible(), true);
});

test('it moves only where motion is welcome', async (t) => {
  for (const [reducedMotion, animation] of [
    ['reduce', 'none'],
    ['no-preference', 'rise'],
  ]) {
    const context = await openTabs(t, rig, { reducedMotion });
    const tab = await openTab(context, { token: rig.gate.token() });
    await tab.dialog.waitFor();
    const found = await tab.page.evaluate(() => {
      const root = document.querySelector('portcullis-session').shadowRoot;
      return [getComputedStyle(root.querySelector('dialog')).animationName, getComputedStyle(root.querySelector('.rest')).transitionDuration];
    });
    assert.deepEqual(found, [animation, animation === 'none' ? '0s' : '1s']);
  }
});

test('it speaks other languages, from right to left too', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token(), dialog: false });
  await tab.page.evaluate(() => {
    window.session.close();
    document.documentElement.dir = 'rtl';
    document.documentElement.lang = 'ar';
    const plural = new Intl.PluralRules('ar');
    const forms = { one: 'ثانية واحدة', two: 'ثانيتان' };
    window.session = window.portcullis.createSession({
      getToken: () => window.token,
      warnBefore: 3,
      strings: {
        idleTitle: 'هل ما زلت هنا؟',
        stay: 'البقاء',
        timeLeft: (seconds) => forms[plural.select(seconds)] ?? `${seconds} ثوان`,
      },
    });
  });
  await tab.dialog.waitFor();
  assert.equal(await tab.page.getByRole('heading', { name: 'هل ما زلت هنا؟' }).isVisible(), true);
  const left = tab.page.locator('portcullis-session #left');
  await eventually('two seconds are left', async () => (await left.textContent()) === 'ثانيتان');
  const [ring, words] = await tab.page.evaluate(() => {
    const root = document.querySelector('portcullis-session').shadowRoot;
    return ['.ring', '.words'].map((name) => root.querySelector(name).getBoundingClientRect().left);
  });
  assert.ok(ring > words, 'it is laid out from right to left');
  assert.equal(await tab.page.evaluate(() => document.querySelector('portcullis-session').lang), '');
});

test('it takes the colours of the application, and those of the dark', async (t) => {
  const context = await openTabs(t, rig, { colorScheme: 'dark' });
  const tab = await openTab(context, { token: rig.gate.token() });
  await tab.dialog.waitFor();
  const colours = () =>
    tab.page.evaluate(() => {
      const root = document.querySelector('portcullis-session').shadowRoot;
      const { backgroundColor, borderRadius } = getComputedStyle(root.querySelector('dialog'));
      return [backgroundColor, getComputedStyle(root.querySelector('.primary')).backgroundColor, borderRadius];
    });
  assert.deepEqual(await colours(), ['rgb(29, 32, 39)', 'rgb(143, 171, 255)', '14px']);
  await tab.page.evaluate(() => {
    const { style } = document.documentElement;
    style.setProperty('--portcullis-color-scheme', 'light');
    style.setProperty('--portcullis-accent', 'rgb(0, 128, 0)');
    style.setProperty('--portcullis-radius', '2px');
  });
  assert.deepEqual(await colours(), ['rgb(255, 255, 255)', 'rgb(0, 128, 0)', '2px']);
});

test('without a dialog the application shows its own', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { token: rig.gate.token(), dialog: false });
  await eventually('there is a warning', async () => (await tab.state()).phase === 'warning');
  assert.equal(await tab.page.locator('portcullis-session').count(), 0);
  await tab.page.evaluate(() => window.session.continue());
  assert.equal((await tab.state()).phase, 'active');
});
