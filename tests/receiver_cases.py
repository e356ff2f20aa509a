"""Receivers and defaults as they can be in an alertmanager.yml, valid and not; one in each line."""

from __future__ import annotations

# ruff: noqa: E501 - a case is a line

RECEIVERS = """
webhook: {url: 'http://h'}
webhook: {url: 'https://u:p@h:8443/a?b=c#d', max_alerts: 0, send_resolved: false}
webhook: {}
webhook: {url: ''}
webhook: {url: 'ftp://h'}
webhook: {url: h}
webhook: {url: 'http://h', http_config: {basic_auth: {username: u, password: p}}}
webhook: {url: 'http://h', http_config: {basic_auth: {username: u, password: p, password_file: f}}}
webhook: {url: 'http://h', http_config: {basic_auth: {}, bearer_token: t}}
webhook: {url: 'http://h', http_config: {bearer_token: t, bearer_token_file: f}}
webhook: {url: 'http://h', http_config: {authorization: {credentials: c}}}
webhook: {url: 'http://h', http_config: {authorization: {type: basic, credentials: c}}}
webhook: {url: 'http://h', http_config: {authorization: {credentials: c, credentials_file: f}}}
webhook: {url: 'http://h', http_config: {authorization: {credentials: c}, bearer_token: t}}
webhook: {url: 'http://h', http_config: {oauth2: {client_id: i, client_secret: s, token_url: 'http://t', scopes: [a], endpoint_params: {a: b}}}}
webhook: {url: 'http://h', http_config: {oauth2: {client_id: i, client_secret: s, client_secret_file: f, token_url: 'http://t'}}}
webhook: {url: 'http://h', http_config: {oauth2: {client_secret: s, token_url: 'http://t'}}}
webhook: {url: 'http://h', http_config: {oauth2: {client_id: i, client_secret: s}}}
webhook: {url: 'http://h', http_config: {oauth2: {client_id: i, token_url: 'http://t', tls_config: {insecure_skip_verify: true}, proxy_url: 'http://p'}}}
webhook: {url: 'http://h', http_config: {proxy_url: 'http://u:p@p:8080', follow_redirects: false, enable_http2: false}}
webhook: {url: 'http://h', http_config: {tls_config: {ca_file: a, cert_file: b, key_file: c, server_name: d, insecure_skip_verify: true, min_version: TLS13}}}
webhook: {url: 'http://h', http_config: {tls_config: {min_version: TLS9}}}
webhook: {url: 'http://h', http_config: {tls_config: {cert_file: b}}}
webhook: {url: 'http://h', http_config: {}}
webhook: {url: 'http://h', http_config: }
webhook: {url: 'http://h', nope: 1}
slack: {api_url: 'http://h'}
slack: {}
slack: {api_url_file: f}
slack: {api_url: 'http://h', api_url_file: f}
slack: {api_url: 'http://h', fields: [{title: a, value: b}, {title: a, value: b, short: true}]}
slack: {api_url: 'http://h', fields: [{title: a}]}
slack: {api_url: 'http://h', actions: [{type: button, text: a, url: 'http://u'}]}
slack: {api_url: 'http://h', actions: [{type: button, text: a, name: n, confirm: {text: sure}}]}
slack: {api_url: 'http://h', actions: [{type: button, text: a, name: n, confirm: {title: sure}}]}
slack: {api_url: 'http://h', actions: [{type: button, text: a}]}
slack: {api_url: 'http://h', actions: [{text: a, url: u}]}
slack: {api_url: 'http://h', channel: '#a', username: u, color: c, title: t, title_link: l, pretext: p, text: x, short_fields: true, footer: f, fallback: b, callback_id: i, icon_emoji: e, icon_url: u, image_url: u, thumb_url: u, link_names: true, mrkdwn_in: [text]}
slack: {api_url: 'http://h', title: }
slack: {api_url: 'http://h', title: '{{ template "nowhere" . }}'}
slack: {api_url: 'http://h', title: '{{ nope }}'}
slack: {api_url: 'http://h', text: 5}
slack: {api_url: 'http://h', link_names: 'yes'}
pagerduty: {routing_key: k}
pagerduty: {service_key: k}
pagerduty: {routing_key: k, service_key: k}
pagerduty: {routing_key_file: f}
pagerduty: {service_key_file: f}
pagerduty: {routing_key: k, routing_key_file: f}
pagerduty: {}
pagerduty: {routing_key: k, url: 'http://h', client: c, client_url: u, description: d, details: {a: b}, images: [{src: s, alt: a, href: h}], links: [{href: h, text: t}], severity: s, class: c, component: d, group: g}
pagerduty: {routing_key: k, url: h}
pagerduty: {routing_key: k, details: {a: }}
pagerduty: {routing_key: k, details: {a: 5}}
email: {to: 'a@h', from: 'b@h', smarthost: 'h:25'}
email: {to: 'a@h', from: 'b@h', smarthost: 'h'}
email: {to: 'a@h', from: 'b@h', smarthost: ':25'}
email: {to: 'a@h', from: 'b@h', smarthost: '[::1]:25'}
email: {to: 'a@h', from: 'b@h', smarthost: 'h:smtp'}
email: {to: 'a@h', from: 'b@h'}
email: {to: 'a@h', smarthost: 'h:25'}
email: {from: 'b@h', smarthost: 'h:25'}
email: {to: 'a@h', from: 'b@h', smarthost: 'h:25', headers: {subject: a, X-B: b}, html: '', text: t, require_tls: false, hello: h, auth_username: u, auth_password: p, auth_secret: s, auth_identity: i, tls_config: {insecure_skip_verify: true}}
email: {to: 'a@h', from: 'b@h', smarthost: 'h:25', headers: {subject: a, Subject: b}}
email: {to: 'a@h', from: 'b@h', smarthost: 'h:25', auth_password_file: f}
email: {to: 'a@h', from: 'b@h', smarthost: 'h:25', auth_password: p, auth_password_file: f}
email: {to: 'a@h', from: 'b@h', smarthost: 'h:25', subject: s}
email: {to: '{{ .CommonLabels.mail }}', from: 'b@h', smarthost: 'h:25'}
telegram: {bot_token: t, chat_id: 1}
telegram: {bot_token: t, chat_id: -100123456789}
telegram: {bot_token: t}
telegram: {chat_id: 1}
telegram: {bot_token_file: t, chat_id: 1, api_url: 'http://h', message: m, disable_notifications: true, parse_mode: MarkdownV2}
telegram: {bot_token: t, chat_id: 1, parse_mode: ''}
telegram: {bot_token: t, chat_id: 1, parse_mode: html}
telegram: {bot_token: t, chat_id: '1'}
discord: {webhook_url: 'http://h', title: t, message: m}
discord: {}
opsgenie: {api_key: k}
opsgenie: {api_key_file: f, api_url: 'http://h/'}
opsgenie: {}
opsgenie: {api_key: k, api_key_file: f}
opsgenie: {api_key: k, message: m, description: d, source: s, details: {a: b}, entity: e, responders: [{id: i, type: user}, {name: n, type: TEAM}, {username: u, type: escalation}, {name: x, type: schedule}, {name: 'a,b', type: teams}], actions: a, tags: t, note: n, priority: P1, update_alerts: true}
opsgenie: {api_key: k, responders: [{type: team}]}
opsgenie: {api_key: k, responders: [{name: n, type: other}]}
opsgenie: {api_key: k, responders: [{name: n, type: '{{ .Status }}'}]}
victorops: {api_key: k, routing_key: r}
victorops: {api_key: k}
victorops: {routing_key: r}
victorops: {api_key: k, routing_key: r, message_type: m, state_message: s, entity_display_name: e, monitoring_tool: t, custom_fields: {a: b}}
victorops: {api_key: k, routing_key: r, custom_fields: {routing_key: b}}
victorops: {api_key: k, api_key_file: f, routing_key: r}
pushover: {user_key: u, token: t}
pushover: {token: t}
pushover: {user_key: u}
pushover: {user_key_file: u, token_file: t}
pushover: {user_key: u, user_key_file: f, token: t}
pushover: {user_key: u, token: t, title: t, message: m, url: u, url_title: t, sound: s, priority: p, retry: 1m30s, expire: 2h, html: true}
pushover: {user_key: u, token: t, retry: 1.5m}
sns: {topic_arn: 'arn:aws:sns:us-east-2:1:t', sigv4: {region: r, access_key: a, secret_key: s}}
sns: {topic_arn: t, sigv4: {profile: p, role_arn: r}}
sns: {phone_number: '1', sigv4: {}}
sns: {target_arn: t}
sns: {}
sns: {topic_arn: t, target_arn: t}
sns: {topic_arn: t, phone_number: '1'}
sns: {topic_arn: t, api_url: 'http://h', subject: s, message: m, attributes: {a: b}}
webex: {room_id: r, http_config: {authorization: {credentials: c}}}
webex: {room_id: r}
webex: {http_config: {authorization: {credentials: c}}}
wechat: {api_secret: s, corp_id: c}
wechat: {corp_id: c}
wechat: {api_secret: s}
wechat: {api_secret: s, corp_id: c, agent_id: a, to_user: u, to_party: p, to_tag: t, message: m, message_type: markdown, api_url: 'http://h'}
wechat: {api_secret: s, corp_id: c, message_type: other}
"""
DEFAULTS = """
{slack_api_url: 'http://h'}
{slack_api_url: 'http://h', slack_api_url_file: f}
{slack_api_url_file: f}
{slack_api_url: h}
{smtp_smarthost: h}
{smtp_smarthost: 'h:25', smtp_from: a, smtp_hello: h, smtp_auth_username: u, smtp_auth_password: p, smtp_auth_secret: s, smtp_auth_identity: i, smtp_require_tls: false}
{smtp_auth_password: p, smtp_auth_password_file: f}
{pagerduty_url: 'http://h', opsgenie_api_url: 'http://h', opsgenie_api_key: k, victorops_api_url: 'http://h', victorops_api_key: k, wechat_api_url: 'http://h', wechat_api_secret: s, wechat_api_corp_id: c, telegram_api_url: 'http://h', webex_api_url: 'http://h'}
{opsgenie_api_key: k, opsgenie_api_key_file: f}
{victorops_api_key: k, victorops_api_key_file: f}
{http_config: {basic_auth: {username: u, password: p}}}
{http_config: {basic_auth: {}, bearer_token: t}}
{resolve_timeout: 1m}
"""
