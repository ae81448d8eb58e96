// `portcullis demo --browser`: the example page, as people meet it.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { after, before, test } from 'node:test';
import { openTabs, startBrowser } from './support/browser.js';
import { BINARY, eventually } from './support/gate.js';

let rig;
let demo;
before(async () => {
  demo = spawn(BINARY, ['demo', '--browser', '--port', '0'], { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  demo.stdout.on('data', (chunk) => (said += chunk));
  const url = await eventually('it tells where to look', () => /http:\/\/127\.0\.0\.1:\d+(?=\/ in a browser)/.exec(said)?.[0]);
  rig = { browser: await startBrowser(), gate: { url } };
});
after(async () => {
  await rig?.browser.close();
  demo.kill('SIGINT');
  if (demo.exitCode === null && demo.signalCode === null) await once(demo, 'exit');
});

test('the page shows what is left, works, ends and begins anew', async (t) => {
  const context = await openTabs(t, rig);
  const page = await context.newPage();
  await page.goto('/');
  const phase = page.locator('#phase');
  const says = (text) => eventually(`it says "${text}"`, async () => (await phase.textContent()) === text);
  const log = page.locator('#log');
  await says('signed in');
  await eventually('the limits are those of the demo', async () => {
    const [idle, absolute] = await page.locator('.time').allTextContents();
    return /^1:(2\d|30)$/.test(idle) && /^1[45]:\d\d$/.test(absolute);
  });
  await page.locator('#letter').fill('Dear reader');
  await page.getByRole('button', { name: 'Call the API' }).click();
  await page.getByRole('button', { name: 'Background poll' }).click();
  await log.getByText('GET /api/news → 200').first().waitFor();

  const second = await context.newPage();
  await second.goto('/');
  await second.getByRole('button', { name: 'Log out' }).click();
  await says('signed out');
  await log.getByText('session ended: logged_out').waitFor();
  assert.equal(await page.locator('#letter').inputValue(), 'Dear reader');

  await page.getByRole('button', { name: 'Sign in again' }).click();
  await says('signed in');
  assert.equal(await page.getByRole('heading', { name: 'You are signed out' }).isVisible(), false);
});
