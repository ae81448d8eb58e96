//! Roles and connections.

use serde_json::json;

use super::{Api, refused};
use crate::support::auth0::{Auth0, User};

#[tokio::test]
async fn roles_are_found_by_a_part_of_their_name() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    let admin = tenant.add_role("Admin");
    tenant.add_role("Reader");
    let found = api.get("roles?name_filter=adm").await.json();
    assert_eq!(found, json!([{ "id": admin, "name": "Admin", "description": "Role Admin" }]));
    let found = api.get("roles?include_totals=true&per_page=1").await.json();
    assert_eq!((found["roles"].as_array().unwrap().len(), &found["total"]), (1, &json!(2)));
    refused(&api.get("roles?name=Admin").await, 400, "invalid_query_string");
}

#[tokio::test]
async fn users_of_a_role_come_by_pages_up_to_1000_and_by_checkpoint_beyond() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    let role = tenant.add_role("Admin");
    let ids: Vec<String> = (0..1050).map(|number| format!("auth0|{number}")).collect();
    for id in &ids {
        tenant.add_user(User::new(id.as_str()));
    }
    assert!(tenant.assign_role(&role, &ids));
    let page = api.get(&format!("roles/{role}/users?page=9&per_page=100&include_totals=true")).await.json();
    assert_eq!(page["users"][99]["user_id"], "auth0|999");
    refused(&api.get(&format!("roles/{role}/users?page=10&per_page=100")).await, 400, "invalid_paging");

    let (mut found, mut query) = (Vec::new(), "take=100".to_owned());
    loop {
        let page = api.get(&format!("roles/{role}/users?{query}")).await.json();
        let users = page["users"].as_array().unwrap();
        found.extend(users.iter().map(|user| user["user_id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        query = format!("take=100&from={next}");
    }
    assert_eq!(found, ids);
    refused(&api.get(&format!("roles/{role}/users?take=101")).await, 400, "invalid_query_string");
    refused(&api.get("roles/rol_none/users").await, 404, "inexistent_role");
}

#[tokio::test]
async fn a_connection_is_found_by_its_name() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    let found = api.get("connections?name=Username-Password-Authentication").await.json();
    assert_eq!((found.as_array().unwrap().len(), &found[0]["strategy"]), (1, &json!("auth0")));
    assert!(found[0]["id"].as_str().unwrap().starts_with("con_"));
    assert_eq!(api.get("connections?name=Username").await.json(), json!([]), "by all of it");
}
