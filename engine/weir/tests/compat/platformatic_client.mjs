// @platformatic/kafka: produce, consume in a group of its own, and a group of two of which one leaves.
const [, , mode, address, prefix] = process.argv
const { Admin, Consumer, Producer, stringDeserializers, stringSerializers } =
  await import(`${process.env.NODE_PATH}/@platformatic/kafka/dist/index.js`)
const topic = `${prefix}-pt`, shared = `${prefix}-pt-programs`, COUNT = 90
const options = { clientId: 'compat', bootstrapBrokers: [address] }
const admin = new Admin(options)
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))

async function produce (to) {
  await admin.createTopics({ topics: [to], partitions: 4, replicas: 1 })
  const producer = new Producer({ ...options, serializers: stringSerializers, idempotent: true })
  const messages = [...Array(COUNT).keys()].map(n => ({ topic: to, key: `${n}`, value: `value-${n}` }))
  await producer.send({ messages, acks: -1 })
  await producer.close()
}

async function member (groupId, from, seen) {
  const consumer = new Consumer({
    ...options, groupId, deserializers: stringDeserializers, autocommit: 200, sessionTimeout: 10000, heartbeatInterval: 500
  })
  const stream = await consumer.consume({ topics: [from], mode: 'committed', fallbackMode: 'earliest' })
  stream.on('data', message => seen.set(message.key, message.value))
  return { consumer, owned: () => (consumer.assignments ?? []).flatMap(entry => entry.partitions).length }
}

async function waitFor (condition, shown) {
  const deadline = Date.now() + 40000
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`timed out: ${shown()}`)
    await sleep(50)
  }
}

if (mode === 'produce') await produce(topic)
if (mode === 'consume') {
  const seen = new Map()
  const { consumer } = await member(`${prefix}-pt-${Date.now()}`, topic, seen)
  await waitFor(() => seen.size === COUNT, () => seen.size)
  for (const [key, value] of seen) if (value !== `value-${key}`) throw new Error(`${key}: ${value}`)
  await consumer.close(true)
}
if (mode === 'programs') {
  await produce(shared)
  const seen = new Map()
  const one = await member(`${prefix}-pt-group`, shared, seen)
  const two = await member(`${prefix}-pt-group`, shared, seen)
  const shown = () => `${one.owned()} ${two.owned()} ${seen.size}`
  await waitFor(() => one.owned() === 2 && two.owned() === 2 && seen.size === COUNT, shown)
  await sleep(500)
  await one.consumer.close(true)
  await waitFor(() => two.owned() === 4, shown)
  await two.consumer.close(true)
}
if (mode === 'programs' || mode === 'committed') {
  const groups = await admin.listGroups()
  if (!groups.has(`${prefix}-pt-group`)) throw new Error('the group is not listed')
}
await admin.close()
process.exit(0)
