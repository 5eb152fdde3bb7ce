package sqlite

// TasksQuery is the query that Store.Tasks makes of a filter.
var TasksQuery = tasksQuery
