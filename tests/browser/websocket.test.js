// WebSockets of a browser, through a gate with TLS and without: over HTTP/2 where the browser has such a connection, else by an upgrade.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { openTabs, start } from './support/browser.js';

for (const tls of [false, true]) {
  test(`a WebSocket ${tls ? 'through TLS' : 'in the clear'} passes, and ends with its session`, async (t) => {
    const rig = await start({ tls });
    t.after(() => rig.stop());
    const context = await openTabs(t, rig, { ignoreHTTPSErrors: true });
    await context.addCookies([{ name: 'token', value: rig.gate.token(), url: rig.gate.url }]);
    const page = await context.newPage();
    await page.goto('/');
    const said = await page.evaluate(async () => {
      const socket = new WebSocket(`${location.origin.replace('http', 'ws')}/api/socket`);
      window.socketClosed = new Promise((resolve) => (socket.onclose = ({ code, reason }) => resolve({ code, reason })));
      await new Promise((resolve) => (socket.onopen = resolve));
      const heard = [];
      for (const word of ['one', 'two']) {
        const answer = new Promise((resolve) => (socket.onmessage = ({ data }) => resolve(data)));
        socket.send(word);
        heard.push(await answer);
      }
      return heard;
    });
    assert.deepEqual(said, ['one', 'two']);
    const closed = await page.evaluate(async () => {
      const left = await fetch('/.portcullis/logout', { method: 'POST' });
      return { status: left.status, ...(await window.socketClosed) };
    });
    assert.deepEqual(closed, { status: 204, code: 1008, reason: 'session_ended' });
  });
}
