/**
 * Portcullis: what an access token has to say, so that a gateway can tell whether its session has ended.
 *
 * Runs whenever tokens are issued: at a login, a silent one, and a refresh. It asks the gateway when the user last logged out, and
 *
 * 1. denies blocked users, and sessions that began before the last logout: the gateway would refuse their tokens anyway;
 * 2. puts into the access token `last_logout` (milliseconds, as the gateway gives it), the session id, and the time of the login;
 * 3. keeps the last two with the refresh token, since a refresh has no session to ask.
 *
 * Nothing is cached, nothing waits for longer than 1.5 s, and nothing that goes wrong here is thrown.
 *
 * Secrets:
 *   GATEWAY_URL         https://<gateway>, without a path
 *   GATEWAY_TOKEN       the token of `[last_logout]`
 *   CLAIM_NAMESPACE     a URL of yours that the names of claims begin with, such as https://acme.example/
 *   GATEWAY_ISSUER      the name of the issuer in the gateway's configuration, if it has several
 *   WHEN_UNREACHABLE    "open" (default): tokens are issued, without `last_logout`; "closed": they are not
 *   WITHOUT_LOGIN_TIME  "deny" (default): after a logout, a refresh whose login time is not known is denied; "allow": it is not
 */
const TIMEOUT = 1500;
const SESSION = 'portcullis_sid';
const LOGIN = 'portcullis_auth_time';

exports.onExecutePostLogin = async (event, api) => {
  const closed = event.secrets?.WHEN_UNREACHABLE === 'closed';
  try {
    await decide(event, api, closed);
  } catch (error) {
    console.log(`portcullis: ${brief(error)}`);
    if (closed) api.access.deny('The state of sessions cannot be had at the moment.');
  }
};

async function decide(event, api, closed) {
  const refresh =
    event.transaction?.protocol === 'oauth2-refresh-token' || event.request?.body?.grant_type === 'refresh_token';
  const metadata = event.refresh_token?.metadata ?? {};
  const session = event.session?.id ?? event.refresh_token?.session_id ?? metadata[SESSION];
  const login = refresh ? kept(metadata[LOGIN]) : loginTime(event);

  const known = await ask(event);
  if (known === undefined) {
    if (closed) return api.access.deny('The state of sessions cannot be had at the moment.');
  } else if (known.blocked) {
    return api.access.deny('The user is blocked.');
  } else if (known.last_logout !== null) {
    // A whole second stands for all of it, as it does at the gateway.
    const over = login !== undefined && login * 1000 + 999 <= known.last_logout;
    const doubtful = refresh && login === undefined && event.secrets.WITHOUT_LOGIN_TIME !== 'allow';
    if (over || doubtful) return end(api, refresh, over);
    api.accessToken.setCustomClaim('last_logout', known.last_logout);
  }

  const namespace = event.secrets.CLAIM_NAMESPACE;
  if (namespace && session) api.accessToken.setCustomClaim(`${namespace}sid`, session);
  if (namespace && login !== undefined) api.accessToken.setCustomClaim(`${namespace}auth_time`, login);
  if (!refresh) {
    if (session) keep(api, SESSION, session);
    if (login !== undefined) keep(api, LOGIN, String(login));
  }
}

/** The last logout and whether the user is blocked; undefined: the gateway did not say. */
async function ask(event) {
  const { GATEWAY_URL, GATEWAY_TOKEN, GATEWAY_ISSUER } = event.secrets;
  try {
    const url = new URL('/.portcullis/last-logout', GATEWAY_URL);
    url.searchParams.set('sub', event.user.user_id);
    if (GATEWAY_ISSUER) url.searchParams.set('issuer', GATEWAY_ISSUER);
    const response = await fetch(url, {
      headers: { authorization: `Bearer ${GATEWAY_TOKEN}` },
      redirect: 'error',
      signal: AbortSignal.timeout(TIMEOUT),
    });
    if (response.status !== 200) throw new Error(`status ${response.status}`);
    const { last_logout, blocked } = await response.json();
    if (typeof blocked !== 'boolean' || !(last_logout === null || Number.isSafeInteger(last_logout))) {
      throw new Error('not an answer of the gateway');
    }
    return { last_logout, blocked };
  } catch (error) {
    console.log(`portcullis: the gateway did not answer: ${brief(error)}`);
    return undefined;
  }
}

/** Denies, and where the plan allows it ends what is over, so that it does not come back when the gateway has forgotten it. */
function end(api, refresh, over) {
  api.access.deny('The session has ended. Log in again.');
  if (!over) return;
  try {
    if (refresh) api.refreshToken?.revoke?.('The session has ended.');
    else api.session?.revoke?.('The session has ended.');
  } catch (error) {
    console.log(`portcullis: not revoked: ${brief(error)}`);
  }
}

/** When the user last proved who they are in this session, in epoch seconds; undefined: nobody tells. */
function loginTime(event) {
  const methods = event.authentication?.methods ?? [];
  const times = [event.session?.authenticated_at ?? methods.map((method) => method.timestamp)].flat();
  const millis = times.map((time) => new Date(time ?? NaN).getTime()).filter((time) => time > 0);
  return millis.length > 0 ? Math.floor(Math.max(...millis) / 1000) : undefined;
}

function kept(value) {
  const seconds = Number(value);
  return Number.isSafeInteger(seconds) && seconds > 0 ? seconds : undefined;
}

function keep(api, name, value) {
  try {
    if (value.length <= 255) api.refreshToken?.setMetadata?.(name, value);
  } catch (error) {
    console.log(`portcullis: not kept with the refresh token: ${brief(error)}`);
  }
}

/** The log takes 256 characters. */
function brief(error) {
  return String(error?.message ?? error).slice(0, 150);
}
