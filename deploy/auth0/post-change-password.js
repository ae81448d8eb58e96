/**
 * Portcullis: who changes the password is logged out everywhere, at the gateway too.
 *
 * Runs after a password of a database connection was changed, and nobody waits for it. It is tried three times; what fails then is
 * logged, and left to the gateway's other sources.
 *
 * Secrets:
 *   GATEWAY_URL          https://<gateway>, without a path
 *   GATEWAY_WRITE_TOKEN  the write token of `[last_logout]`
 *   GATEWAY_ISSUER       the name of the issuer in the gateway's configuration, if it has several
 */
const TIMEOUT = 4000;
const ATTEMPTS = 3;
const PAUSE = 1000;

exports.onExecutePostChangePassword = async (event) => {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
    try {
      await tell(event);
      return;
    } catch (error) {
      const reason = String(error?.message ?? error).slice(0, 150);
      console.log(`portcullis: logout not told (${attempt} of ${ATTEMPTS}): ${reason}`);
      if (attempt < ATTEMPTS) await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }
};

async function tell(event) {
  const { GATEWAY_URL, GATEWAY_WRITE_TOKEN, GATEWAY_ISSUER } = event.secrets;
  if (!event.user?.user_id) throw new Error('the event names no user');
  const url = new URL('/.portcullis/last-logout', GATEWAY_URL);
  url.searchParams.set('sub', event.user.user_id);
  if (GATEWAY_ISSUER) url.searchParams.set('issuer', GATEWAY_ISSUER);
  const response = await fetch(url, {
    method: 'POST',
    headers: { authorization: `Bearer ${GATEWAY_WRITE_TOKEN}` },
    redirect: 'error',
    signal: AbortSignal.timeout(TIMEOUT),
  });
  if (response.status !== 204) throw new Error(`status ${response.status}`);
}
