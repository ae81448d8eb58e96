// A browser in front of a gate that does TLS by itself.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openTab, openTabs, start } from './support/browser.js';

let rig;
before(async () => {
  rig = await start({ tls: true });
});
after(() => rig?.stop());

test('pages come by HTTP/2 over TLS, and their session is watched over', async (t) => {
  const context = await openTabs(t, rig, { ignoreHTTPSErrors: true });
  const tab = await openTab(context, { token: rig.gate.token() });
  const protocols = await tab.page.evaluate(() =>
    [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')].map(({ nextHopProtocol }) => nextHopProtocol),
  );
  assert.ok(protocols.length > 1);
  assert.deepEqual([...new Set(protocols)], ['h2']);
  await tab.isActive();
  assert.equal((await tab.call()).status, 200);
});
