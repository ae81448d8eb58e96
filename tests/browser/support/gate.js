// A real gate in front of a small API and the pages of these tests.
import { execFileSync, spawn } from 'node:child_process';
import { createHash, createHmac, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const HERE = path.dirname(fileURLToPath(import.meta.url));
const ROOT = path.resolve(HERE, '../../..');
const PAGES = path.resolve(HERE, '../page');
export const BINARY = process.env.PORTCULLIS_BIN ?? path.join(ROOT, 'target/debug/portcullis');
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css' };
// As strict as an application may be: no inline script, no inline style.
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' http://127.0.0.1:*; img-src 'self' data:; base-uri 'none'";

export const IDLE_LIMIT = 6;
export const ABSOLUTE_LIMIT = 3600;

/** With `tls`, it is one for `https://localhost`, with a certificate that nobody knows. */
export async function startGate({ tls = false } = {}) {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'portcullis-browser-'));
  const secret = randomBytes(32).toString('hex');
  await writeFile(path.join(directory, 'secret'), secret);
  const upstream = http.createServer(answer);
  upstream.on('upgrade', echo);
  upstream.listen(0, '127.0.0.1');
  await once(upstream, 'listening');
  const port = await freePort();
  const elsewhere = `http://localhost:${upstream.address().port}`;
  if (tls) certify(directory);
  const text = configuration(port, upstream.address().port, elsewhere, directory, tls);
  await writeFile(path.join(directory, 'portcullis.toml'), text);

  const gate = spawn(BINARY, ['serve', '--config', path.join(directory, 'portcullis.toml')], { stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  gate.stderr.on('data', (chunk) => (log += chunk));
  const url = tls ? `https://localhost:${port}` : `http://127.0.0.1:${port}`;
  await eventually('the gate listens', async () => {
    if (gate.exitCode !== null) throw new Error(`the gate did not start:\n${log}`);
    return (await status(url, directory)) === 200;
  });

  return {
    url,
    /** Where the same pages are without the gate, as another origin that it trusts. */
    elsewhere,
    /** Signs a token: a new session, unless `sid` says otherwise. */
    token: (claims = {}) => sign(secret, claims),
    async stop() {
      gate.kill('SIGTERM');
      if (gate.exitCode === null && gate.signalCode === null) await once(gate, 'exit');
      upstream.closeAllConnections();
      upstream.close();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** A certificate for `localhost` of its own. */
function certify(directory) {
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-noenc', '-keyout', 'tls.key'];
  const files = { cwd: directory, stdio: ['ignore', 'ignore', 'inherit'] };
  execFileSync('openssl', ['req', '-x509', '-days', '2', '-out', 'tls.pem', ...key, ...subject], files);
}

/** The status of the first page; undefined: nobody answers. */
async function status(url, directory) {
  if (url.startsWith('http:')) return (await fetch(`${url}/`).catch(() => null))?.status;
  const ca = await readFile(path.join(directory, 'tls.pem'));
  return new Promise((resolve) => {
    https.get(`${url}/`, { ca, agent: false }, (response) => resolve(response.resume().statusCode)).on('error', () => resolve());
  });
}

/** What the gate says of a token, asked from outside of the browser. */
export async function ask(gate, token, init) {
  const headers = { authorization: `Bearer ${token}`, 'portcullis-activity': 'background' };
  const response = await fetch(`${gate.url}/api/hello`, { headers, ...init });
  return { status: response.status, code: (await response.json()).code ?? null };
}

export async function eventually(what, condition, within = 10_000) {
  const deadline = Date.now() + within;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`not within ${within} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

function configuration(port, upstream, elsewhere, directory, tls) {
  return `
[listener]
address = "127.0.0.1:${port}"
drain_timeout = "1s"
${tls ? 'tls = { certificate_file = "tls.pem", key_file = "tls.key" }' : ''}

[admin]
address = "127.0.0.1:0"

[store]
url = "embedded:${directory}/data"

[activity]
resolution = "1s"
flush_interval = "100ms"

[session]
idle_limit = "${IDLE_LIMIT}s"
absolute_limit = "1h"
origins = ["${elsewhere}"]

[issuers.test]
issuer = "https://issuer.test/"
audiences = ["https://api.test"]
algorithms = ["HS256"]
secret_file = "${directory}/secret"
cookie = "token"

[[routes]]
name = "api"
path = "/api"
upstream = "http://127.0.0.1:${upstream}"

[[routes]]
name = "shared"
path = "/api/shared"
upstream = "http://127.0.0.1:${upstream}"
cors = { origins = ["${elsewhere}"], methods = ["GET", "PUT"] }

[[routes]]
name = "pages"
path = "/"
upstream = "http://127.0.0.1:${upstream}"
auth = "none"
`;
}

function sign(secret, { lifetime = 3600, loggedInAgo = 0, ...claims }) {
  const now = Math.floor(Date.now() / 1000);
  const payload = {
    iss: 'https://issuer.test/',
    aud: 'https://api.test',
    sub: 'alice',
    sid: randomBytes(9).toString('base64url'),
    iat: now,
    exp: now + lifetime,
    auth_time: now - loggedInAgo,
    jti: randomBytes(9).toString('base64url'),
    ...claims,
  };
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const message = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(payload)}`;
  return `${message}.${createHmac('sha256', secret).update(message).digest('base64url')}`;
}

async function answer(request, response) {
  const { pathname } = new URL(request.url, 'http://upstream');
  if (pathname.startsWith('/api/')) {
    response.writeHead(200, { 'content-type': 'application/json', 'cache-control': 'no-store' });
    response.end(JSON.stringify({ hello: 'world' }));
    return;
  }
  try {
    const { file, body, policy = POLICY } = await page(pathname);
    response.writeHead(200, { 'content-type': TYPES[path.extname(file)] ?? 'text/plain', 'content-security-policy': policy });
    response.end(body);
  } catch {
    response.writeHead(404).end();
  }
}

/** A WebSocket that says back what it is told, as far as that is short. */
function echo(request, socket) {
  const accept = createHash('sha1').update(`${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
  socket.on('error', () => {});
  let bytes = Buffer.alloc(0);
  socket.on('data', (chunk) => {
    bytes = Buffer.concat([bytes, chunk]);
    while (bytes.length >= 6 && bytes.length >= 6 + (bytes[1] & 0x7f)) {
      const length = bytes[1] & 0x7f;
      const [opcode, mask] = [bytes[0], bytes.subarray(2, 6)];
      const payload = bytes.subarray(6, 6 + length).map((byte, index) => byte ^ mask[index % 4]);
      bytes = bytes.subarray(6 + length);
      socket.write(Buffer.concat([Buffer.from([opcode, length]), payload]));
      if ((opcode & 0xf) === 8) socket.end();
    }
  });
}

async function page(pathname) {
  const file = path.normalize(pathname === '/' ? '/index.html' : pathname);
  if (file.startsWith('/cjs/')) return { file, body: await asModule(file.slice('/cjs/'.length)) };
  if (file === '/.portcullis/session.js') return { file, body: await readFile(path.join(ROOT, 'web/session/session.js')) };
  if (file.startsWith('/package/')) return { file, body: await readFile(path.join(ROOT, 'web/session', path.basename(file))) };
  const body = await readFile(path.join(PAGES, file));
  // Its import map is inline.
  if (file === '/react.html') return { file, body, policy: '' };
  return { file, body };
}

/** React is published as CommonJS only. */
async function asModule(file) {
  const name = path.basename(file, '.js').replace(/-client$/, '/client');
  const code = await readFile(path.join(HERE, '../node_modules', name.split('/')[0], 'cjs', path.basename(file).replace('.js', '.development.js')), 'utf8');
  const needed = [...new Set([...code.matchAll(/require\("([^"]+)"\)/g)].map(([, needed]) => needed))];
  const imports = needed.map((needed, index) => `import n${index} from ${JSON.stringify(needed)};`).join('\n');
  const table = needed.map((needed, index) => `${JSON.stringify(needed)}: n${index}`).join(', ');
  const names = [...new Set([...code.matchAll(/^\s*exports\.(\w+) = /gm)].map(([, exported]) => exported))];
  return `${imports}
const required = { ${table} };
const require = (name) => required[name];
const module = { exports: {} };
const exports = module.exports;
const process = { env: { NODE_ENV: 'development' } };
${code}
export default module.exports;
${names.map((name) => `const e_${name} = module.exports.${name}; export { e_${name} as ${name} };`).join('\n')}
`;
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}
