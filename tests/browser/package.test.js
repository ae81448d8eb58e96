// What is published to npm: packed, unpacked, and used as others would.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const HERE = path.dirname(fileURLToPath(import.meta.url));
const SOURCE = path.resolve(HERE, '../../web/session');
const INSTALLED = path.join(HERE, 'node_modules/portcullis-session');
const run = (command, ...args) => execFileSync(command, args, { cwd: HERE, encoding: 'utf8' });

let packed;
before(() => {
  const directory = mkdtempSync(path.join(HERE, 'node_modules/.packed-'));
  after(() => rmSync(directory, { recursive: true }));
  [packed] = JSON.parse(run('npm', 'pack', '--json', '--pack-destination', directory, SOURCE));
  rmSync(INSTALLED, { recursive: true, force: true });
  mkdirSync(INSTALLED);
  run('tar', '-xzf', path.join(directory, packed.filename), '-C', INSTALLED, '--strip-components=1');
});
after(() => rmSync(INSTALLED, { recursive: true, force: true }));

test('the package holds what it should', () => {
  const files = packed.files.map(({ path }) => path).sort();
  assert.deepEqual(files, ['LICENSE', 'README.md', 'package.json', 'react.d.ts', 'react.js', 'session.d.ts', 'session.js']);
  const { dependencies } = JSON.parse(readFileSync(path.join(INSTALLED, 'package.json'), 'utf8'));
  assert.equal(dependencies, undefined);
});

test('module, package and gate have one version', async () => {
  const { VERSION } = await import('portcullis-session');
  const gate = /^version = "([^"]+)"/m.exec(readFileSync(path.resolve(HERE, '../../Cargo.toml'), 'utf8'))[1];
  assert.deepEqual([VERSION, packed.version], [gate, gate]);
});

test('the licence is that of the repository', () => {
  assert.equal(readFileSync(path.join(SOURCE, 'LICENSE'), 'utf8'), readFileSync(path.resolve(HERE, '../../LICENSE'), 'utf8'));
});

test('the types hold', () => {
  run('node_modules/.bin/tsc', '--project', 'types');
});

test('it can be imported, made and drawn on a server', async () => {
  const { createSession, UNKNOWN } = await import('portcullis-session');
  const { usePortcullisSession } = await import('portcullis-session/react');
  const { createElement } = await import('react');
  const { renderToString } = await import('react-dom/server');
  const session = createSession({ getToken: () => assert.fail('nobody is logged in on a server') });
  const Phase = () => createElement('p', null, usePortcullisSession(session, (state) => state.phase));
  assert.equal(renderToString(createElement(Phase)), '<p>unknown</p>');
  assert.equal(session.state, UNKNOWN);
  session.close();
});

test('it names no globals of its own', () => {
  const code = readFileSync(path.join(SOURCE, 'session.js'), 'utf8');
  assert.doesNotMatch(code, /innerHTML|insertAdjacentHTML|setAttribute\('style'|\beval\(/);
});
