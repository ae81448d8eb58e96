//! Log records as a tenant's stream sends them: mostly logins and refreshes, some of everything else.

use std::fmt::Write as _;

/// How many users a tenant's log is about.
const USERS: usize = 100_000;

/// Of a hundred records.
const MIX: [(usize, Kind); 6] = [
    (45, Kind::Refresh),
    (25, Kind::Login),
    (10, Kind::SilentLogin),
    (8, Kind::Logout),
    (7, Kind::Failure),
    (5, Kind::Change),
];

#[derive(Clone, Copy)]
enum Kind {
    Refresh,
    Login,
    SilentLogin,
    Logout,
    Failure,
    Change,
}

/// Makes deliveries. Each record has an id that none had before.
pub(crate) struct Records {
    run: u64,
    next: u64,
}

impl Records {
    pub(crate) const fn new(run: u64) -> Self {
        Self { run, next: 0 }
    }

    /// A delivery of so many records, one per line; the last one logs `user` out, if there is one.
    pub(crate) fn delivery(&mut self, count: usize, date: &str, user: Option<&str>) -> String {
        let mut text = String::with_capacity(count * 1200);
        for n in 0..count {
            self.next += 1;
            let user = user.filter(|_| n + 1 == count);
            match user {
                Some(user) => self.logout(&mut text, date, user, None),
                None => self.any(&mut text, date),
            }
        }
        text
    }

    fn any(&self, text: &mut String, date: &str) {
        // A step that visits users and kinds in no order.
        let turn = usize::try_from(self.next.wrapping_mul(2_654_435_761) % 1_000_003).unwrap_or_default();
        let user = format!("auth0|6553da60b54a{:012}", turn % USERS);
        let mut rest = turn % 100;
        let kind = MIX.iter().find(|(share, _)| {
            let found = rest < *share;
            rest = rest.saturating_sub(*share);
            found
        });
        let session = format!("s{:x}", self.run ^ self.next);
        match kind.map_or(Kind::Change, |(_, kind)| *kind) {
            Kind::Refresh => self.record(text, "sertft", "Success Exchange", date, &user, &format!(
                r#"{{"grant_type":"refresh_token","refresh_token":{{"id":"rt_{session}","session_id":"{session}","expires_at":"2027-01-01T00:00:00.000Z"}},"request":{{"auth":{{"strategy":"jwt","scopes":["openid","profile"]}}}}}}"#
            )),
            Kind::Login => self.record(text, "s", "", date, &user, &format!(
                r#"{{"session_id":"{session}","prompts":[{{"name":"lock-password-authenticate","initiatedAt":1775039400000,"completedAt":1775039400123,"connection":"Username-Password-Authentication","strategy":"auth0","identity":"6553da60a54af58e29493993","elapsedTime":123}}],"initiatedAt":1775039399000,"completedAt":1775039400123,"elapsedTime":1123,"stats":{{"loginsCount":7}}}}"#
            )),
            Kind::SilentLogin => self.record(text, "ssa", "", date, &user, &format!(
                r#"{{"session_id":"{session}","initiatedAt":1775039399000,"completedAt":1775039399010,"elapsedTime":10}}"#
            )),
            Kind::Logout => self.logout(text, date, &user, Some(&session)),
            Kind::Failure => self.record(text, "fsa", "Login required", date, &user, r#"{"error":{"message":"Login required","oauthError":"login_required"}}"#),
            Kind::Change => self.record(text, "sapi", "Create grant", date, &user, r#"{"request":{"method":"post","path":"/api/v2/client-grants","channel":"api","body":{"scope":["read:x"],"client_secret":"*****"}},"response":{"statusCode":201,"body":{"id":"cgr_1"}}}"#),
        }
    }

    fn logout(&self, text: &mut String, date: &str, user: &str, session: Option<&str>) {
        let session = session.map(|session| format!(r#""session_id":"{session}","#)).unwrap_or_default();
        let details = format!(
            r#"{{"return_to":"https://app.example/bye",{session}"allowed_logout_url":["https://app.example/bye"]}}"#
        );
        self.record(text, "slo", "User successfully logged out", date, user, &details);
    }

    fn record(&self, text: &mut String, kind: &str, description: &str, date: &str, user: &str, details: &str) {
        let Self { run, next } = self;
        let id = format!("90020260501{run:020}{next:025}");
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            r#"{{"log_id":"{id}","data":{{"date":"{date}","type":"{kind}","description":"{description}","connection":"Username-Password-Authentication","connection_id":"con_1a5wCUmAs6VOU17n","client_id":"my5Ke2dqQ0Gx8cTzWv1LbNpRhYs7JfUa","client_name":"All Applications","ip":"81.2.69.143","user_agent":"Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:125.0) Gecko/20100101 Firefox/125.0","hostname":"tenant.example","user_id":"{user}","user_name":"user@example.com","audience":"https://api.example","scope":["openid","profile","email"],"strategy":"auth0","strategy_type":"database","tenant_name":"tenant","environment_name":"prod-eu-1","$event_schema":{{"version":"1.0.0"}},"isMobile":false,"details":{details},"log_id":"{id}"}}}}"#
        );
    }
}
