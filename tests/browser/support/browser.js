// A real Chromium, and pages in it that watch over a session.
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';
import { startGate } from './gate.js';

export async function startBrowser() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
}

/** A gate and a browser for a file of tests. */
export async function start(options) {
  const [gate, browser] = await Promise.all([startGate(options), startBrowser()]);
  return {
    gate,
    browser,
    async stop() {
      await browser.close();
      await gate.stop();
    },
  };
}

/** A browser's tabs: pages that share cookies and channels. Closed at the end of the test, and nothing may have gone wrong in it. */
export async function openTabs(t, { browser, gate }, options = {}) {
  const context = await browser.newContext({ baseURL: gate.url, ...options });
  const wrong = [];
  context.on('weberror', (error) => wrong.push(String(error.error())));
  context.on('console', (message) => {
    // Refusals are what is tested.
    if (message.type() === 'error' && !/the server responded with a status of 401|net::ERR_/.test(message.text())) {
      wrong.push(message.text());
    }
  });
  t.after(async () => {
    await context.close();
    assert.deepEqual(wrong, []);
  });
  return context;
}

/** Opens the page and watches over the session of `token`. Options are those of `createSession`, as far as they are data. */
export async function openTab(context, { token, url = '/', clock = false, focus, ...options } = {}) {
  const page = await context.newPage();
  if (clock) await page.clock.install();
  await page.goto(url);
  await page.waitForFunction(() => window.portcullis);
  if (focus) await page.locator(`#${focus}`).focus();
  await page.evaluate(({ token, options }) => window.watch(token, options), { token, options: { warnBefore: 3, ...options } });
  return {
    page,
    dialog: page.getByRole('alertdialog'),
    state: () => page.evaluate(() => window.session.state),
    events: () => page.evaluate(() => window.events),
    ended: () => page.evaluate(() => window.events.filter(({ type }) => type === 'ended').map(({ detail }) => detail)),
    requests: () => page.evaluate(() => window.requests),
    call: (path = '/api/hello', init = {}) =>
      page.evaluate(
        async ({ path, init }) => {
          const response = await window.session.fetch(path, init);
          return { status: response.status, body: await response.json() };
        },
        { path, init },
      ),
    isActive: () => page.waitForFunction(() => window.session.state.phase === 'active'),
    hasEnded: (timeout = 12_000) => page.waitForFunction(() => window.session.state.phase === 'ended', null, { timeout }),
  };
}
