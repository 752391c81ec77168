// Sends what a task asks for, with @parse/node-apn or firebase-admin, and writes what became of each as JSON.
//
// The task is JSON on standard input; `clients.py` beside this directory says what is in it. Only the addresses of Apple
// and Google are replaced. The CA comes from NODE_EXTRA_CA_CERTS.
const { createRequire } = require('module');
const fs = require('fs');
const http2 = require('http2');
const https = require('https');

// The packages are not beside this file.
const load = createRequire(process.env.JUDGES_PACKAGES + '/');

async function apns(task) {
  const apn = load('@parse/node-apn');
  const { auth } = task;
  const byKey = { token: { key: auth.key, keyId: auth.key_id, teamId: auth.team_id } };
  const byCertificate = auth.p12 ? { pfx: auth.p12, passphrase: '' } : { cert: auth.pem, key: auth.pem };
  const url = new URL(task.url);
  const provider = new apn.Provider({
    ...(auth.key ? byKey : byCertificate),
    production: true, address: url.hostname, port: Number(url.port), ca: fs.readFileSync(task.ca),
  });
  const answers = task.notifications.map(async given => {
    const notification = new apn.Notification();
    notification.rawPayload = given.payload;
    notification.topic = given.topic;
    notification.pushType = given.push_type;
    notification.priority = given.priority;
    notification.expiry = given.expiration;
    notification.id = given.id;
    if (given.collapse_id) notification.collapseId = given.collapse_id;
    const { sent, failed } = await provider.send(notification, given.token);
    if (sent.length === 1 && failed.length === 0) return { status: 200, reason: '' };
    const { status, response, error } = failed[0];
    return { status: status ?? 0, reason: response?.reason ?? String(error), timestamp: response?.timestamp };
  });
  const all = await Promise.all(answers);
  await provider.shutdown();
  return all;
}

/** Have connections to these origins made to others. */
function divert(origins) {
  const connect = http2.connect;
  http2.connect = (origin, ...rest) => connect(origins[origin] ?? origin, ...rest);
  const request = https.request;
  https.request = (to, ...rest) => {
    if (typeof to === 'string') {
      const { origin } = new URL(to);
      return request(to.replace(origin, origins[origin] ?? origin), ...rest);
    }
    const other = origins[`https://${to.hostname}`];
    if (other === undefined) return request(to, ...rest);
    const { hostname, port } = new URL(other);
    return request({ ...to, host: hostname, hostname, port }, ...rest);
  };
}

async function fcm(task) {
  divert({
    'https://fcm.googleapis.com': task.url,
    // google-auth-library does not read the `token_uri` of the service account.
    'https://oauth2.googleapis.com': new URL(JSON.parse(fs.readFileSync(task.account)).token_uri).origin,
  });
  const { initializeApp, cert } = load('firebase-admin/app');
  const { getMessaging } = load('firebase-admin/messaging');
  const messaging = getMessaging(initializeApp({ credential: cert(task.account) }));
  const messages = task.messages.map(({ token, data, ttl_s }) => ({
    token, data, android: { priority: 'high', ttl: ttl_s * 1000 },
  }));
  const failed = error => ({ code: error.code, message: error.message });
  if (task.call === 'send_each' || task.call === 'send_each_http1') {
    if (task.call === 'send_each_http1') messaging.enableLegacyHttpTransport();
    const { responses } = await messaging.sendEach(messages);
    return responses.map(answer => (answer.success ? { name: answer.messageId } : failed(answer.error)));
  }
  const send = message => messaging.send(message, task.call === 'dry_run').then(name => ({ name }), failed);
  return Promise.all(messages.map(send));
}

const task = JSON.parse(fs.readFileSync(0));
({ apns, fcm })[task.provider](task).then(
  answers => fs.writeFileSync(1, JSON.stringify(answers)),
  error => { console.error(error); process.exitCode = 1; },
).finally(() => process.exit());
