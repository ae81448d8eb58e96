//! Exports of users: jobs, links that are good for a minute, and files that are written while they are read.
//!
//! 1. A job is pending, then processing, then completed; it is forgotten after a day. What it shows is how things were when it began.
//! 2. Each poll of a completed job gives a new link, to another origin. A link is good for a minute; afterwards, and when it was
//!    tampered with, the answer is that of the object store: 403 and XML. It is its own authorization: a request that brings another
//!    one is refused, and recorded.
//! 3. The file is gzip of one object a line, not of an array; or CSV.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_util::stream;
use http::{Method, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task, time::sleep};

use super::{
    Auth0, Shared,
    answer::{Body, Refusal, error, full, invalid_body, json_answer, pairs, typed, value},
    directory::{Directory, View},
    field::Field,
    moment::{iso, millis, now},
    population::mix,
    record::Call,
    server::Fault,
    user::{CONNECTIONS, Connection, User},
};

/// What is exported when nothing is said, and as what: nothing in it tells of activity.
const DEFAULT: [(&str, &str); 11] = [
    ("user_id", "Id"),
    ("given_name", "Given Name"),
    ("family_name", "Family Name"),
    ("nickname", "Nickname"),
    ("name", "Name"),
    ("email", "Email"),
    ("email_verified", "Email Verified"),
    ("picture", "Picture"),
    ("identities[0].connection", "Connection"),
    ("created_at", "Created At"),
    ("updated_at", "Updated At"),
];

/// The most fields of CSV.
const MOST_FIELDS: usize = 30;

/// How long what was sent has to go out before a connection is cut.
const ON_ITS_WAY: Duration = Duration::from_millis(100);

/// How much is written before it is sent on.
const CHUNK: usize = 64 * 1024;

pub(crate) struct Exports {
    jobs: BTreeMap<String, Job>,
    begun: u64,
    /// How long a job takes.
    takes: Duration,
    link_lifetime: Duration,
    job_lifetime: Duration,
    /// So many of the next jobs fail.
    failing: usize,
    links: u64,
}

impl Default for Exports {
    fn default() -> Self {
        Self {
            jobs: BTreeMap::new(),
            begun: 0,
            takes: Duration::from_millis(200),
            link_lifetime: Duration::from_secs(60),
            job_lifetime: Duration::from_secs(86_400),
            failing: 0,
            links: 0,
        }
    }
}

#[derive(Clone)]
struct Job {
    /// As it was asked for.
    asked: Value,
    begun: Instant,
    created_at: i64,
    takes: Duration,
    fails: bool,
    export: Export,
    /// The links that were given out, as far as they may still be good, and when.
    links: Vec<(u64, Instant)>,
}

/// What a file holds.
#[derive(Clone)]
struct Export {
    directory: Directory,
    connection: Option<&'static Connection>,
    is_csv: bool,
    limit: u64,
    /// What, and under which name.
    fields: Arc<[(Field, String)]>,
}

impl Export {
    fn read(asked: &Value, directory: &Directory) -> Result<Self, Refusal> {
        let refuse = |message: &str| Err(Box::new(invalid_body(message)));
        let Some(members) = asked.as_object() else { return refuse("Expected type object") };
        if let Some(name) =
            members.keys().find(|name| !["connection_id", "format", "limit", "fields"].contains(&name.as_str()))
        {
            return refuse(&format!("Additional properties not allowed: {name}"));
        }
        let connection = match members.get("connection_id") {
            None => None,
            Some(id) => match CONNECTIONS.iter().find(|connection| *id == connection.id) {
                None => return Err(Box::new(error(400, "inexistent_connection", "The connection does not exist."))),
                found => found,
            },
        };
        let is_csv = match members.get("format").map(Value::as_str) {
            None | Some(Some("json")) => false,
            Some(Some("csv")) => true,
            _ => return refuse("No enum match for: format"),
        };
        let limit = match members.get("limit").map(Value::as_u64) {
            None => u64::MAX,
            Some(Some(limit)) if limit > 0 => limit,
            _ => return refuse("Expected a positive integer on property limit"),
        };
        let fields = match members.get("fields") {
            None => {
                let field = |(name, label): (&str, &str)| Some((Field::exported(name)?, label.to_owned()));
                DEFAULT.into_iter().filter_map(field).collect()
            }
            Some(Value::Array(fields)) if !fields.is_empty() => {
                let fields: Result<Vec<_>, String> = fields.iter().map(field).collect();
                match fields {
                    Ok(fields) => fields,
                    Err(message) => return refuse(&message),
                }
            }
            Some(_) => return refuse("Expected a non-empty array on property fields"),
        };
        if is_csv && fields.len() > MOST_FIELDS {
            return refuse("Array is too long (max 30) on property fields");
        }
        if is_csv && fields.iter().any(|(field, _)| field.is_whole_metadata()) {
            return refuse("app_metadata and user_metadata cannot be exported as a whole in CSV");
        }
        Ok(Self { directory: directory.clone(), connection, is_csv, limit, fields: fields.into() })
    }
}

/// An element of `fields`.
fn field(asked: &Value) -> Result<(Field, String), String> {
    let Some(members) = asked.as_object() else { return Err("Expected type object on property fields".into()) };
    if let Some(name) = members.keys().find(|name| !["name", "export_as"].contains(&name.as_str())) {
        return Err(format!("Additional properties not allowed: {name} on property fields"));
    }
    let Some(name) = members.get("name").and_then(Value::as_str) else {
        return Err("Missing required property: name on property fields".into());
    };
    let label = match members.get("export_as") {
        None => name,
        Some(Value::String(label)) if !label.is_empty() => label,
        Some(_) => return Err("Expected type string on property export_as".into()),
    };
    // What the tenant does about a field that no user has is not documented; asking for one is a mistake in any case.
    match Field::exported(name) {
        Some(field) => Ok((field, label.to_owned())),
        None => Err(format!("Unknown field: {name} on property fields")),
    }
}

impl Job {
    fn status(&self) -> &'static str {
        let elapsed = self.begun.elapsed();
        if elapsed < self.takes / 4 {
            "pending"
        } else if elapsed < self.takes {
            "processing"
        } else if self.fails {
            "failed"
        } else {
            "completed"
        }
    }

    fn json(&self, id: &str) -> Value {
        let mut job = self.asked.clone();
        job["id"] = json!(id);
        job["type"] = json!("users_export");
        job["status"] = json!(self.status());
        job["created_at"] = json!(iso(self.created_at));
        if let Some(connection) = self.export.connection {
            job["connection"] = json!(connection.name);
        }
        if self.status() == "processing" {
            let (elapsed, takes) = (millis(self.begun.elapsed()), millis(self.takes).max(1));
            job["percentage_done"] = json!((elapsed * 100 / takes).clamp(0, 99));
            job["time_left_seconds"] = json!((takes - elapsed).max(0) / 1000 + 1);
        }
        job
    }
}

impl Shared {
    pub(crate) fn export(&self, body: &Bytes) -> Response<Body> {
        let asked: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut state = self.state();
        let export = match Export::read(&asked, &state.directory) {
            Ok(export) => export,
            Err(refusal) => return *refusal,
        };
        let exports = &mut state.exports;
        exports.forget();
        exports.begun += 1;
        let id = format!("job_{:016x}", mix(exports.begun));
        let fails = exports.failing > 0;
        exports.failing = exports.failing.saturating_sub(1);
        let job = Job {
            asked,
            begun: Instant::now(),
            created_at: now(),
            takes: exports.takes,
            fails,
            export,
            links: Vec::new(),
        };
        let mut answer = job.json(&id);
        answer["status"] = json!("pending");
        exports.jobs.insert(id, job);
        json_answer(200, &answer)
    }

    pub(crate) fn job(&self, id: &str) -> Response<Body> {
        let mut state = self.state();
        let exports = &mut state.exports;
        exports.forget();
        let lifetime = exports.link_lifetime;
        let Some(job) = exports.jobs.get_mut(id) else {
            return error(404, "inexistent_job", "The job does not exist.");
        };
        let mut answer = job.json(id);
        match job.status() {
            "completed" => {
                exports.links += 1;
                let signature = mix(!exports.links);
                job.links.retain(|(_, given)| given.elapsed() < lifetime);
                job.links.push((signature, Instant::now()));
                let kind = if job.export.is_csv { "csv" } else { "json" };
                answer["location"] = json!(format!(
                    "{}/exports/{id}/acme.{kind}.gz?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date={}&X-Amz-Expires={}\
                     &X-Amz-SignedHeaders=host&X-Amz-Signature={signature:016x}",
                    self.files,
                    compact(now()),
                    lifetime.as_secs().max(1),
                ));
            }
            "failed" => answer["status_details"] = json!("The export could not be written."),
            _ => {}
        }
        json_answer(200, &answer)
    }
}

impl Exports {
    fn forget(&mut self) {
        let lifetime = self.job_lifetime;
        self.jobs.retain(|_, job| job.begun.elapsed() < lifetime);
    }
}

/// `20260131T120000Z`
fn compact(at: i64) -> String {
    let text = iso(at);
    let seconds = text.split('.').next().unwrap_or_default();
    seconds.chars().filter(|character| !matches!(character, '-' | ':')).chain(['Z']).collect()
}

/// As the object store refuses.
fn refuse<T>(status: u16, code: &str, message: &str) -> Result<T, Refusal> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    Err(Box::new(typed(status, "application/xml", full(body))))
}

/// The other origin.
pub(crate) async fn download(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
    let head = request.into_parts().0;
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let (at, fault) = (Instant::now(), shared.state().download_fault(&head.method, &target));
    match fault {
        Some(Fault::Delay(delay)) => sleep(delay).await,
        Some(Fault::Hang | Fault::DoneThenHang) => std::future::pending().await,
        _ => {}
    }
    let is_authorized_twice = head.headers.contains_key(header::AUTHORIZATION);
    let answer = {
        let mut state = shared.state();
        if is_authorized_twice {
            state.record.violation("a download of an export with the field Authorization");
        }
        match fault {
            Some(Fault::Status(status)) => refuse(status, "InternalError", "An error on demand."),
            Some(Fault::TooMany) => refuse(503, "SlowDown", "Please reduce your request rate."),
            _ if is_authorized_twice => {
                refuse(400, "InvalidArgument", "Only one auth mechanism allowed; the query already has one")
            }
            _ if head.method != Method::GET => {
                refuse(403, "SignatureDoesNotMatch", "The signature is for another method.")
            }
            _ => state.exports.opened(&target),
        }
    };
    let response = match answer {
        Ok(export) => {
            let ends_at = match fault {
                Some(Fault::CutBody) => Some(End::Cut),
                Some(Fault::Truncate) => Some(End::Short),
                _ => None,
            };
            let body = match fault {
                Some(Fault::Garbage(text)) => full(text),
                _ => written(export, ends_at),
            };
            typed(200, "binary/octet-stream", body)
        }
        Err(refusal) => *refusal,
    };
    shared.state().record.call(Call {
        at,
        method: head.method,
        target,
        fields: head.headers,
        body: Value::Null,
        status: response.status(),
    });
    Ok(response)
}

impl Exports {
    /// What a link leads to, if it is good.
    fn opened(&mut self, target: &str) -> Result<Export, Refusal> {
        self.forget();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut segments = path.split('/').skip(1);
        let id = (segments.next() == Some("exports")).then(|| segments.next()).flatten();
        let Some(job) = id.and_then(|id| self.jobs.get(id)) else {
            return refuse(404, "NoSuchKey", "The specified key does not exist.");
        };
        let signature = pairs(query);
        let signature = value(&signature, "X-Amz-Signature").and_then(|text| u64::from_str_radix(text, 16).ok());
        match job.links.iter().find(|(given, _)| Some(*given) == signature) {
            Some((_, given)) if given.elapsed() < self.link_lifetime => Ok(job.export.clone()),
            Some(_) => refuse(403, "AccessDenied", "Request has expired"),
            None => refuse(403, "SignatureDoesNotMatch", "The request signature we calculated does not match."),
        }
    }
}

/// How a file ends in the middle.
#[derive(Clone, Copy)]
enum End {
    /// With the connection.
    Cut,
    /// As if it were whole.
    Short,
}

/// The file, which is written as fast as it is read.
fn written(export: Export, end: Option<End>) -> Body {
    let (sender, receiver) = mpsc::channel::<Result<Bytes, io::Error>>(4);
    task::spawn_blocking(move || {
        // Whoever no longer reads closes the channel, and so ends it.
        if let Err(error) = export.write(&sender, end) {
            let _ = sender.blocking_send(Err(error));
        }
    });
    let frames = stream::unfold(receiver, |mut receiver| async move {
        let chunk = receiver.recv().await?;
        Some((chunk.map(Frame::data), receiver))
    });
    StreamBody::new(frames).boxed()
}

impl Export {
    fn write(&self, sender: &mpsc::Sender<Result<Bytes, io::Error>>, end: Option<End>) -> io::Result<()> {
        let mut gzip = GzEncoder::new(Vec::with_capacity(2 * CHUNK), Compression::fast());
        let mut lines = String::with_capacity(2 * CHUNK);
        let send = |chunk: Vec<u8>| {
            sender.blocking_send(Ok(chunk.into())).map_err(|_| io::Error::other("nobody reads any more"))
        };
        if self.is_csv {
            self.head(&mut lines);
        }
        let middle = end.map(|_| self.limit.min(self.directory.len()) / 4);
        let keys = self.directory.keys(i64::MIN..i64::MAX);
        let users = keys.filter_map(|key| self.directory.read(key, View::Now));
        let users = users.filter(|user| self.connection.is_none_or(|connection| connection == user.connection));
        for (written, user) in (0..self.limit).zip(users) {
            let begin = lines.len();
            self.user(&user, &mut lines);
            if middle == Some(written) {
                // In the middle of a line.
                let half = begin + (lines.len() - begin) / 2;
                let half = (half..lines.len()).find(|at| lines.is_char_boundary(*at)).unwrap_or(begin);
                lines.truncate(half);
                break;
            }
            if lines.len() >= CHUNK {
                gzip.write_all(lines.as_bytes())?;
                lines.clear();
            }
            if gzip.get_ref().len() >= CHUNK {
                send(mem::replace(gzip.get_mut(), Vec::with_capacity(2 * CHUNK)))?;
            }
        }
        gzip.write_all(lines.as_bytes())?;
        match end {
            None => return send(gzip.finish()?),
            Some(_) => gzip.flush()?,
        }
        // Without the end of gzip, so that whoever unpacks it can tell.
        send(mem::take(gzip.get_mut()))?;
        if matches!(end, Some(End::Cut)) {
            // An error at once would overtake what was sent.
            std::thread::sleep(ON_ITS_WAY);
            return Err(io::Error::other("cut"));
        }
        Ok(())
    }

    fn user(&self, user: &User, text: &mut String) {
        if self.is_csv {
            self.row(user, text);
        } else {
            self.line(user, text);
        }
    }

    fn line(&self, user: &User, text: &mut String) {
        let mut before = '{';
        for (field, label) in self.fields.iter() {
            // What a user does not have is left out.
            if let Some(held) = field.of(user) {
                text.push(before);
                before = ',';
                text.push_str(&Value::from(label.as_str()).to_string());
                text.push(':');
                held.write_json(text);
            }
        }
        if before == '{' {
            text.push('{');
        }
        text.push_str("}\n");
    }

    fn head(&self, text: &mut String) {
        let labels: Vec<String> = self.fields.iter().map(|(_, label)| label.replace(',', " ")).collect();
        text.push_str(&labels.join(","));
        text.push_str("\r\n");
    }

    fn row(&self, user: &User, text: &mut String) {
        for (index, (field, _)) in self.fields.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            if let Some(held) = field.of(user) {
                held.write_csv(text);
            }
        }
        text.push_str("\r\n");
    }
}

impl Auth0 {
    /// How long exports take from now on: pending for the first quarter. 200 ms at first.
    pub(crate) fn set_export_time(&self, takes: Duration) {
        self.state().exports.takes = takes;
    }

    /// How long links to exports are good; a minute at first.
    pub(crate) fn set_link_lifetime(&self, lifetime: Duration) {
        self.state().exports.link_lifetime = lifetime;
    }

    /// How long jobs are remembered; a day at first.
    pub(crate) fn set_job_lifetime(&self, lifetime: Duration) {
        self.state().exports.job_lifetime = lifetime;
    }

    /// So many of the next exports fail.
    pub(crate) fn fail_exports(&self, count: usize) {
        self.state().exports.failing = count;
    }

    /// Where exports are downloaded from: `http://<address>`, another origin than [`Auth0::base`].
    pub(crate) fn files_base(&self) -> &str {
        &self.shared.files
    }
}
