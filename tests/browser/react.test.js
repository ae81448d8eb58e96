import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openTab, openTabs, start } from './support/browser.js';
import { eventually } from './support/gate.js';

let rig;
before(async () => (rig = await start()));
after(() => rig.stop());

test('a component shows what is left, and is drawn anew only for what it selects', async (t) => {
  const context = await openTabs(t, rig);
  const tab = await openTab(context, { url: '/react.html', token: rig.gate.token() });
  await tab.page.waitForFunction(() => window.draw);
  await tab.page.evaluate(() => window.draw());
  const left = tab.page.locator('#left');
  await eventually('four seconds are left', async () => (await left.textContent()) === '4 s left');
  assert.equal(await tab.page.locator('#phase').textContent(), 'active');
  await eventually('there is a warning', async () => (await tab.page.locator('#phase').textContent()) === 'warning');
  const drawn = await tab.page.evaluate(() => window.drawn);
  assert.ok(drawn.left > drawn.phase, JSON.stringify(drawn));
  await tab.page.evaluate(() => window.root.unmount());
  await tab.hasEnded();
  const after = await tab.page.evaluate(() => window.drawn);
  assert.ok(after.left <= drawn.left + 2, 'nothing is drawn after it is gone');
});
