// Runs an Auth0 Action as Auth0 documents it: shapes of `event` and `api`, limits, and what is dropped without a word.
//
// stdin: { "file", "handler", "event", "plan": "free" | "enterprise" }. stdout: what the Action did.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import vm from 'node:vm';

const RESTRICTED = new Set(
  ('acr act active amr at_hash ath attest aud auth_time authorization_details azp c_hash client_id cnf cty dest ' +
    'entitlements events exp groups gty htm htu iat internalService iss jcard jku jti jwe jwk kid may_act mky nbf nonce ' +
    'object_id org_id org_name orig origid permissions roles rph s_hash sid sub sub_jwk toe txn typ uuid vot vtm x5t#S256').split(' '),
);
const FORBIDDEN_HOSTS = ['auth0.com', 'webtask.io', 'webtask.run'];
const DEADLINE = 20_000;

const { file, handler, event, plan } = JSON.parse(readFileSync(0, 'utf8'));
const done = { claims: {}, dropped: [], denied: null, metadata: {}, revoked: [], logs: [], violations: [], error: null };

const code = readFileSync(file, 'utf8');
if (code.length > 100 * 1024) done.violations.push('code is longer than 100 KB');
for (const [name, value] of Object.entries(event.secrets)) {
  if (value.length > 4096) done.violations.push(`secret ${name} is longer than 4096 characters`);
}

function isAllowed(name) {
  if (RESTRICTED.has(name) || name.startsWith('sip_')) return false;
  if (/^https?:\/\//.test(name)) {
    const host = new URL(name).hostname;
    return !FORBIDDEN_HOSTS.some((forbidden) => host === forbidden || host.endsWith(`.${forbidden}`));
  }
  // A plain name goes into tokens for the tenant's own APIs only.
  const audience = event.resource_server?.identifier ?? '';
  return audience !== '' && !audience.includes('.auth0.com/');
}

function setMetadata(name, value) {
  if (typeof value !== 'string' || value.length > 255 || name.length > 255) throw new Error('metadata value too long');
  if (!(name in done.metadata) && Object.keys(done.metadata).length >= 25) throw new Error('too many metadata entries');
  done.metadata[name] = value;
}

const api = {
  access: {
    deny(reason) {
      done.denied ??= reason;
    },
  },
  accessToken: {
    setCustomClaim(name, value) {
      const claims = { ...done.claims, [name]: value };
      if (isAllowed(name) && JSON.stringify(claims).length <= 100 * 1024) done.claims = claims;
      else done.dropped.push(name);
    },
  },
  refreshToken: { setMetadata },
};
if (plan === 'enterprise') {
  api.refreshToken.revoke = (reason) => done.revoked.push(`refresh token: ${reason}`);
  api.session = { revoke: (reason) => done.revoked.push(`session: ${reason}`) };
}

function log(...words) {
  const line = words.join(' ');
  if (line.length > 256) done.violations.push('a log line is longer than 256 characters');
  done.logs.push(line.slice(0, 256));
}

const module = { exports: {} };
const globals = { AbortSignal, URL, Buffer, clearTimeout, fetch, setTimeout, process: { env: {} } };
const sandbox = { ...globals, console: { log, error: log, warn: log }, exports: module.exports, module };
sandbox.require = createRequire(import.meta.url);
vm.runInNewContext(code, sandbox, { filename: file });

const begun = Date.now();
const deadline = new Promise((_, reject) => setTimeout(() => reject(new Error('20 s are over')), DEADLINE).unref());
try {
  await Promise.race([module.exports[handler](event, api), deadline]);
} catch (error) {
  // It would fail the login.
  done.error = String(error?.stack ?? error);
}
done.took = Date.now() - begun;
process.stdout.write(JSON.stringify(done), () => process.exit(0));
