use super::*;
#[test]
fn dump() {
    let cases: Vec<(String, String, std::collections::BTreeMap<String, String>)> =
        serde_json::from_str(&std::fs::read_to_string("/tmp/cases.json").unwrap()).unwrap();
    let mut out = Vec::new();
    for (name, text, env) in cases {
        let r = match Config::parse(&text, "portcullis.toml", env) {
            Ok(c) => format!("OK {c:?}"),
            Err(e) => e.to_string(),
        };
        println!("=== {name}\n{r}");
        out.push((name, r));
    }
    std::fs::write("/tmp/out.json", serde_json::to_string(&out).unwrap()).unwrap();
}
